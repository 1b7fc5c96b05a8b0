# Debian, Ubuntu and their kin.
APT='-o DPkg::Lock::Timeout=600 -o APT::Update::Error-Mode=any'
DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
export DEBIAN_FRONTEND NEEDRESTART_MODE

# Where a baseline has repositories of its own, these alone are used. The node's are only looked away from, so that
# nothing has to be put back, whatever ends this run.
sources() {
  own_sources "$WORK/sources" list || return 0
  mkdir -p "$WORK/lists/partial"
  APT="$APT -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$WORK/sources -o Dir::State::lists=$WORK/lists"
}
no_sources() { rm -rf "$WORK/sources" "$WORK/lists"; }

facts() {
  quietly apt-get $APT -q update || return 1
  dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t${Priority}\t${Section}\n' |
    awk -F '\t' -v OFS='\t' -v own="$(dpkg --print-architecture)" '$1 ~ /^.i/ {
      $1 = $3 == own || $3 == "all" ? $2 : $2 ":" $3
      print
    }' >"$WORK/installed"
  find /var/lib/dpkg/info -name '*.list' -printf '%f %T@\n' >"$WORK/times" 2>/dev/null
  apt-cache $APT policy >"$WORK/releases" || return 1
  cut -f 1 "$WORK/installed" | xargs apt-cache $APT policy >"$WORK/versions" || return 1
  : >"$WORK/shown"
  apt_facts >"$WORK/first" || return 1
  awk -F '\t' '$1 == "U" { print $2 ":" $3 "=" $4 }' "$WORK/first" | sed 's/:all=/=/' | xargs apt-cache $APT show >"$WORK/shown" 2>/dev/null
  say >>"$WORK/shown"
  apt_facts
}
apt_facts() {
  awk -f "$WORK/time.awk" -f "$WORK/facts.awk" -v product="$T_product" what=times "$WORK/times" \
    what=shown "$WORK/shown" FS='\t' what=installed "$WORK/installed" FS=' ' what=releases "$WORK/releases" \
    what=versions "$WORK/versions"
}

wanted() { # wanted FILE: arguments for apt-get, one a line
  awk -F '\t' '{ print ($2 == "all" ? $1 : $1 ":" $2) "=" $3 }' "$1"
}
blocked() { # packages that may come as no dependency either: as they are, or not at all
  [ "$T_rejected_action" = BLOCK ] || return 0
  awk -F '\t' '$1 == "rejected" { print $2 }' "$TABLE" | while read -r name; do
    here=$(dpkg-query -W -f '${db:Status-Abbrev} ${Version}\n' "$name" 2>/dev/null | awk '$1 ~ /^.i/ { print $2; exit }')
    if [ -n "$here" ]; then say "$name=$here"; elif apt-cache $APT show "$name" >/dev/null 2>&1; then say "$name-"; fi
  done
}
install() { # install FILE: name, architecture, version
  { wanted "$1"; blocked; } | quietly xargs apt-get $APT -q -y --no-remove -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold install
}
version() { # version NAME ARCHITECTURE: what is installed
  dpkg-query -W -f '${db:Status-Abbrev}\t${Architecture}\t${Version}\n' "$1" "$1:$2" 2>/dev/null |
    awk -F '\t' -v machine="$2" '$1 ~ /^.i/ && $2 == machine { print $3; exit }'
}
