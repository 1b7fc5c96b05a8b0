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

END {
  for (i = 1; i <= count; i++) {
    package = order[i]
    for (n = 1; n <= many[package]; n++) {
      version = listed[package, n]
      if (compare(version, here[package]) < 0) continue  # an older kernel beside the newest
      rank = 1
      for (m = 1; m <= many[package]; m++) if (compare(listed[package, m], version) > 0) rank++
      told = split(notices[package, version], ids, " ")
      if (told == 0) tell(version == here[package] ? "I" : "U", package, version, rank, "")
      for (m = 1; m <= told; m++) tell(version == here[package] ? "I" : "U", package, version, rank, ids[m])
    }
  }
}

function tell(kind, package, version, rank, id,    parts, list) {
  split(package, parts, SUBSEP)
  printf "%s\t%s\t%s\t%s\t%d\t", kind, parts[1], parts[2], version, rank
  if (id == "") printf "\t\t\t\t%s\t\t\t0", product
  else {
    list = cves[id]; sub(/^,/, "", list)
    printf "%s\t%s\t\t\t%s\t%s\t%s\t1", class[id], severity[id], product, released[id], list
  }
  list = id == "" ? "" : bugs[id]; sub(/^,/, "", list)
  printf "\t%s\t%s\t%s\n", (kind == "I" ? here_at[package] : ""), id, list
}

function note(package, version) {
  if (!(package in many)) { many[package] = 0; count++; order[count] = package }
  if ((package, version) in noted) return
  noted[package, version] = 1
  many[package]++; listed[package, many[package]] = version
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

function capital(text) {
  sub(/^ +/, "", text); sub(/ +$/, "", text)
  return toupper(substr(text, 1, 1)) tolower(substr(text, 2))
}

# -1, 0 or 1, as rpm orders [epoch:]version-release. rpmio/rpmvercmp.c
function compare(a, b,    first, second, m, n, result) {
  if (a == b) return 0
  m = match(a, /^[0-9]+:/) ? substr(a, 1, RLENGTH - 1) + 0 : 0; sub(/^[0-9]+:/, "", a)
  n = match(b, /^[0-9]+:/) ? substr(b, 1, RLENGTH - 1) + 0 : 0; sub(/^[0-9]+:/, "", b)
  if (m != n) return m < n ? -1 : 1
  first = a; sub(/-[^-]*$/, "", first); second = b; sub(/-[^-]*$/, "", second)
  result = segments(first, second)
  if (result) return result
  return segments(substr(a, length(first) + 2), substr(b, length(second) + 2))
}

function segments(a, b,    x, y) {
  while (a != "" || b != "") {
    sub(/^[^A-Za-z0-9~^]+/, "", a); sub(/^[^A-Za-z0-9~^]+/, "", b)
    if (substr(a, 1, 1) == "~" || substr(b, 1, 1) == "~") {
      if (substr(a, 1, 1) != "~") return 1
      if (substr(b, 1, 1) != "~") return -1
      a = substr(a, 2); b = substr(b, 2); continue
    }
    if (substr(a, 1, 1) == "^" || substr(b, 1, 1) == "^") {
      if (a == "") return -1
      if (b == "") return 1
      if (substr(a, 1, 1) != "^") return 1
      if (substr(b, 1, 1) != "^") return -1
      a = substr(a, 2); b = substr(b, 2); continue
    }
    if (a == "" || b == "") break
    if (a ~ /^[0-9]/) {
      match(a, /^[0-9]+/); x = substr(a, 1, RLENGTH); a = substr(a, RLENGTH + 1)
      if (!match(b, /^[0-9]+/)) return 1
      y = substr(b, 1, RLENGTH); b = substr(b, RLENGTH + 1)
      sub(/^0+/, "", x); sub(/^0+/, "", y)
      if (length(x) != length(y)) return length(x) < length(y) ? -1 : 1
    } else {
      match(a, /^[A-Za-z]+/); x = substr(a, 1, RLENGTH); a = substr(a, RLENGTH + 1)
      if (!match(b, /^[A-Za-z]+/)) return -1
      y = substr(b, 1, RLENGTH); b = substr(b, RLENGTH + 1)
    }
    x = "s" x; y = "s" y
    if (x != y) return x < y ? -1 : 1
  }
  if (a == b) return 0
  return a == "" ? -1 : 1
}
