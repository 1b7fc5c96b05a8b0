# Says how each update stands on a Windows node, by what the service has decided about it. Called as decide.awk is.
#
# Of the table: update; article; chain; day of release; product; title; class; severity; approved, rejected, available
# (a security update that is neither) or nothing; level. Facts: name; version; installed. Of a chain each update holds
# what the earlier ones do.
BEGIN { FS = OFS = "\t"; overrides = updates = others = 0 }

what == "table" {
  if ($1 == "product") has["product", $2] = 1
  else if ($1 == "rejected_action") rejected_action = $2
  else if ($1 == "install") { overrides++; override[toupper($2)] = 1 }
  else if ($1 == "update") {
    updates++
    kb[updates] = $2; chain[updates] = $3; day[updates] = $4; product[updates] = $5; title[updates] = $6
    class[updates] = $7; severity[updates] = $8; status[updates] = $9; level[updates] = $10; known[$2] = 1
  }
  next
}

what == "facts" {
  if ($1 ~ /^KB[0-9]+$/) { here[$1] = 1; here_at[$1] = $3; if (!($1 in known)) { others++; other[others] = $1 } }
  else has["product", $1] = 1
  next
}

what == "tracking" { if ($4 == 1) pending[$1, $2] = $3; next }
what == "failed" { failed[$1, $2] = 1; next }

END {
  for (i = 1; i <= updates; i++) {
    if (kb[i] in here && day[i] > installed_until[chain[i]]) installed_until[chain[i]] = day[i]
    if (status[i] == "approved" && day[i] > approved_until[chain[i]]) approved_until[chain[i]] = day[i]
    if (status[i] != "rejected" && day[i] > newest[chain[i]]) newest[chain[i]] = day[i]
  }
  for (i = 1; i <= updates; i++) {
    name = kb[i] ".x64"
    if (mode == "plan") {
      if (is_missing(i) && (!overrides || kb[i] in override)) print kb[i], "x64", day[i]
      continue
    }
    if (kb[i] in here) {
      if (status[i] == "rejected" && rejected_action == "BLOCK") tell("INSTALLED_REJECTED", i, "UNSPECIFIED")
      else if ((name, day[i]) in pending) tell("INSTALLED_PENDING_REBOOT", i, level[i])
      else if (status[i] == "approved") tell("INSTALLED", i, level[i])
      else tell("INSTALLED_OTHER", i, "UNSPECIFIED")
    }
    else if (is_missing(i)) {
      if (operation == "Scan") tell("MISSING", i, level[i])
      else if ((name, day[i]) in failed) tell("FAILED", i, level[i])
    }
    else if (status[i] == "approved") tell("NOT_APPLICABLE", i, level[i])
    else if (status[i] == "available" && applies(i) && day[i] == newest[chain[i]]) tell("AVAILABLE_SECURITY_UPDATE", i, level[i])
  }
  if (mode != "plan") for (i = 1; i <= others; i++) print "INSTALLED_OTHER", other[i], "", "", "", here_at[other[i]], "UNSPECIFIED", ""
}

# To a node an update is of use if it has the product, and nothing installed that holds it already.
function applies(i) { return (("product", product[i]) in has) && !(kb[i] in here) && day[i] > installed_until[chain[i]] }
function is_missing(i) { return status[i] == "approved" && applies(i) && day[i] == approved_until[chain[i]] }

function tell(state, i, how) {
  print state, kb[i], title[i], class[i], severity[i], (kb[i] in here ? here_at[kb[i]] : ""), how, ""
}
