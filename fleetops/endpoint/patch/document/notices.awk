# What rpm.awk and zypper.awk have in common: they fill these, and here it is told as facts for decide.awk.
#
# By package (name SUBSEP architecture): here, here_at; note(package, version) for each version from the installed one
# on. By notice: class, severity, released (ISO 8601), cves and bugs (a comma before each). By package and version:
# notices, with spaces between.
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
