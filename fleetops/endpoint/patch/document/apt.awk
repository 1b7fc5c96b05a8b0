# Facts for decide.awk from what apt and dpkg print.
#
#   awk -v product=P what=times TIMES what=shown SHOWN what=installed INSTALLED what=releases RELEASES \
#       what=versions VERSIONS
#
# INSTALLED: the name as apt writes it, with the architecture if that is a foreign one; name; architecture; version;
# priority; section. TIMES: file below /var/lib/dpkg/info; seconds since 1970. RELEASES: apt-cache policy. VERSIONS:
# apt-cache policy NAME ..., whose table begins with the newest version. SHOWN: apt-cache show NAME=VERSION ..., empty
# the first time.
BEGIN { OFS = "\t" }

what == "times" { sub(/\.list$/, "", $1); time[$1] = $2; next }

what == "shown" {
  if ($1 == "Package:") name = $2
  else if ($1 == "Version:") version = $2
  else if ($1 == "Priority:") priority = $2
  else if ($1 == "Section:") section = $2
  else if ($0 == "") remember()
  next
}

what == "installed" {
  if (name != "") remember()
  bare_name[$1] = $2; architecture[$1] = $3; here[$1] = $4; here_priority[$1] = $5; here_section[$1] = $6
  at = ($2 in time) ? time[$2] : time[$2 ":" $3]
  here_at[$1] = at == "" ? "" : iso(at)
  count++; order[count] = $1
  next
}

what == "releases" {
  if ($1 == "release") { release[file] = $2; next }
  if ($1 ~ /^-?[0-9]+$/) { file = $0; sub(/^ *-?[0-9]+ /, "", file) }
  next
}

what == "versions" {
  if ($0 ~ /^[^ ]/) { package = $1; sub(/:$/, "", package); rank = 0; least = ""; version = ""; candidate = ""; next }
  if ($1 == "Candidate:") { candidate = $2; next }
  if (substr($0, 1, 5) == " *** ") { begin($2, $3); next }
  if (substr($0, 1, 5) == "     " && substr($0, 6, 1) != " ") { begin($1, $2); next }
  if (version == "" || $1 !~ /^-?[0-9]+$/) next
  file = $0; sub(/^ *-?[0-9]+ /, "", file)
  if (is_security(release[file], file)) secure[package, version] = 1
  else if (release[file] != "" && file !~ /^\/var\/lib\/dpkg\/status/) known[package, version] = 1
  next
}

END {
  for (i = 1; i <= count; i++) {
    package = order[i]
    installed_rank = (package, here[package]) in rank_of ? rank_of[package, here[package]] : 1e9
    for (n = 1; n <= many[package]; n++) {
      version = listed[package, n]
      if (n >= installed_rank || installed_rank == 1e9) continue
      # A version that apt would not choose over its candidate is for those who ask for it by hand.
      if (chosen[package] != "" && priority_of[package, n] < priority_of[package, rank_of[package, chosen[package]]]) continue
      tell("U", package, version, n)
    }
    tell("I", package, here[package], installed_rank)
  }
}

function tell(kind, package, version, rank,    is_secure, first, second) {
  is_secure = (package, version) in secure
  first = here_priority[package]; second = here_section[package]
  if ((bare_name[package], version) in shown_priority) {
    first = shown_priority[bare_name[package], version]; second = shown_section[bare_name[package], version]
  }
  first = toupper(substr(first, 1, 1)) substr(first, 2)
  # An installed version that no repository has now is no patch of any.
  print kind, bare_name[package], architecture[package], version, rank, \
    is_secure ? "Security" : ((package, version) in known ? "Other" : ""), first, first, second, product, "", "", \
    is_secure ? 1 : 0, (kind == "I" ? here_at[package] : ""), "", ""
}

function begin(text, priority) {
  version = text; rank++
  rank_of[package, version] = rank; many[package] = rank; listed[package, rank] = version
  priority_of[package, rank] = priority + 0; chosen[package] = candidate
}

function is_security(fields, file) {
  return fields ~ /(^|,)l=Debian-Security(,|$)/ || fields ~ /(^|,)[an]=[^,]*-security(,|$)/ || file ~ /^[^ ]+ [^ \/]*-security\//
}

function remember() {
  shown_priority[name, version] = priority; shown_section[name, version] = section
  name = version = priority = section = ""
}
