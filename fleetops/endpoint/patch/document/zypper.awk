# Facts for decide.awk from what rpm and zypper print; notices.awk tells them.
#
#   awk -v product=P what=installed INSTALLED what=patches PATCHES what=info INFO what=updates UPDATES
#
# INSTALLED: name; architecture; [epoch:]version-release; seconds since 1970. PATCHES, UPDATES: list-patches --all and
# list-updates -t package, as XML with a tag on each line, its bracket taken away. INFO: info -t patch, as text.
what == "installed" {
  if ($1 == "gpg-pubkey") next
  package = $1 SUBSEP $2
  note(package, $3)
  if (!(package in here)) { packages[$1] = packages[$1] " " $2 }
  if (!(package in here) || compare($3, here[package]) > 0) { here[package] = $3; here_at[package] = iso($4) }
  next
}

what == "patches" {
  if ($1 == "update") {
    id = attribute("name")
    class[id] = capital(attribute("category"))
    severity[id] = tolower(attribute("severity")) ~ /^(none|unspecified|)$/ ? "" : capital(attribute("severity"))
  }
  else if ($1 == "issue-date") released[id] = attribute("text")
  else if ($1 == "issue" && attribute("type") == "cve" && attribute("id") ~ /^CVE-/ && !((id, attribute("id")) in told_cve)) {
    told_cve[id, attribute("id")] = 1; cves[id] = cves[id] "," attribute("id")
  }
  else if ($1 == "issue" && attribute("type") == "bugzilla" && attribute("id") ~ /^[0-9]+$/)
    bugs[id] = bugs[id] "," attribute("id")
  next
}

# "Conflicts   : NAME < VERSION" where there is one; else their number, and then each on a line of its own.
what == "info" {
  if ($1 == "Name" && $2 == ":") { patch = $3; section = ""; next }
  if ($0 ~ /^[A-Z][A-Za-z ]*:/) {
    section = $1
    sub(/^[^:]*: */, "")
  }
  if (section == "Conflicts" && NF == 3 && $2 == "<") fixed($1, $3)
  next
}

what == "updates" {
  if ($1 != "update") next
  package = attribute("name") SUBSEP attribute("arch")
  version = attribute("edition"); sub(/^0:/, "", version)
  if ((package in here) && compare(version, here[package]) > 0) note(package, version)
  next
}

# `name` below `version` is what `patch` mends; name.architecture, but for what is for all of them.
function fixed(name, version,    parts, n, i, package) {
  sub(/^srcpackage:/, "", name)
  if (!(name in packages) && match(name, /\.[^.]*$/)) {
    n = 1; parts[1] = substr(name, RSTART + 1); name = substr(name, 1, RSTART - 1)
  }
  else n = split(packages[name], parts, " ")
  sub(/^0:/, "", version)
  for (i = 1; i <= n; i++) {
    package = name SUBSEP parts[i]
    if (!(package in here) || compare(version, here[package]) < 0) continue
    note(package, version)
    if (index(notices[package, version] " ", " " patch " ") == 0) notices[package, version] = notices[package, version] " " patch
  }
}

function attribute(name,    at, text) {
  at = index($0, " " name "=\"")
  if (at == 0) return ""
  text = substr($0, at + length(name) + 3)
  return substr(text, 1, index(text, "\"") - 1)
}
