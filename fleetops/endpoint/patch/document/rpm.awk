# Facts for decide.awk from what rpm and dnf, or yum, print.
#
#   awk -v product=P what=info INFO what=installed INSTALLED what=old OLD what=new NEW what=updates UPDATES
#
# INFO: updateinfo info, of all notices. INSTALLED: name; architecture; [epoch:]version-release; seconds since 1970.
# OLD, NEW: updateinfo list, of installed versions and of those that are newer. UPDATES: check-update.
BEGIN { OFS = "\t" }

what == "info" {
  key = $0; sub(/ *:.*$/, "", key); sub(/^ +/, "", key)
  text = $0; sub(/^[^:]*: ?/, "", text)
  if (key == "Update ID") { id = text; last = ""; next }
  if (key == "") {
    if (last == "CVEs" && text ~ /^CVE-/) cves[id] = cves[id] "," text
    else if (last == "Bugs" && text ~ /^[0-9]+ /) { sub(/ .*$/, "", text); bugs[id] = bugs[id] "," text }
    next
  }
  if (key !~ /^[A-Za-z]+$/ || id == "") next
  last = key
  if (key == "Type") class[id] = capital(text)
  else if (key == "Severity") severity[id] = text ~ /^(None|none)?$/ ? "" : capital(text)
  else if (key == "CVEs") cves[id] = text ~ /^CVE-/ ? text : ""
  else if (key == "Bugs") { sub(/ .*$/, "", text); bugs[id] = text ~ /^[0-9]+$/ ? text : "" }
  else if (key == "Updated" || (key == "Issued" && released[id] == "")) {
    if (text ~ /^[0-9]/) { released[id] = substr(text, 1, 10) "T" (length(text) >= 19 ? substr(text, 12, 8) : "00:00:00") "Z" }
  }
  next
}

what == "installed" {
  if ($1 == "gpg-pubkey") next
  package = $1 SUBSEP $2
  note(package, $3)
  if (!(package in here) || compare($3, here[package]) > 0) { here[package] = $3; here_at[package] = iso($4) }
  next
}

what == "old" || what == "new" {
  if ($1 == "i") sub(/^ *i +/, "")
  if (NF != 3 || !split_name($3)) next
  package = found_name SUBSEP found_architecture
  if (!(package in here)) next
  if (what == "new" && compare(found_version, here[package]) <= 0) next
  if (what == "old" && compare(found_version, here[package]) != 0) next
  note(package, found_version)
  notices[package, found_version] = notices[package, found_version] " " $1
  next
}

what == "updates" {
  if ($1 ~ /^Obsoleting/) is_over = 1
  if (is_over || NF != 3 || $1 !~ /\./) next
  found_architecture = $1; sub(/^.*\./, "", found_architecture)
  found_name = substr($1, 1, length($1) - length(found_architecture) - 1)
  package = found_name SUBSEP found_architecture
  version = $2; sub(/^0:/, "", version)
  if ((package in here) && compare(version, here[package]) > 0) note(package, version)
  next
}

# name-[epoch:]version-release.architecture, or with the epoch in front as yum has it.
function split_name(text,    epoch, at, left) {
  epoch = ""
  if (match(text, /^[0-9]+:/)) { epoch = substr(text, 1, RLENGTH); text = substr(text, RLENGTH + 1) }
  if (!match(text, /\.[^.]*$/)) return 0
  found_architecture = substr(text, RSTART + 1); text = substr(text, 1, RSTART - 1)
  if (!match(text, /-[^-]*-[^-]*$/)) return 0
  found_name = substr(text, 1, RSTART - 1)
  found_version = epoch substr(text, RSTART + 1)
  sub(/^0:/, "", found_version)
  return 1
}
