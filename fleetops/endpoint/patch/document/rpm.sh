# Amazon Linux, Red Hat and their kin.
if command -v dnf >/dev/null 2>&1; then TOOL=dnf; else TOOL=yum; fi

sources() {
  no_sources
  number=0
  awk -F '\t' '$1 == "source" { print $2 }' "$TABLE" | while read -r text; do
    number=$((number + 1))
    say "$text" | base64 -d >"/etc/yum.repos.d/fleetops-run-$number.repo"
  done
}
no_sources() { rm -f /etc/yum.repos.d/fleetops-run-*.repo; }

tool() { $TOOL -q -C "$@" 9>&-; } # what makecache has fetched
facts() {
  command -v "$TOOL" >/dev/null 2>&1 || give_up "This node has neither dnf nor yum."
  quietly $TOOL -q makecache || return 1
  rpm -qa --qf '%{NAME}\t%{ARCH}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{INSTALLTIME}\n' | sed 's/\t0:/\t/' >"$WORK/installed"
  if [ "$TOOL" = dnf ]; then all=--all old=--installed new=--available; else all=all old=installed new=available; fi
  tool updateinfo info $all >"$WORK/info" || return 1
  tool updateinfo list $old >"$WORK/old" || return 1
  tool updateinfo list $new >"$WORK/new" || return 1
  tool check-update >"$WORK/updates"
  case $? in 0 | 100) ;; *) return 1 ;; esac
  awk -f "$WORK/time.awk" -f "$WORK/facts.awk" -v product="$T_product" what=info "$WORK/info" FS='\t' \
    what=installed "$WORK/installed" FS=' ' what=old "$WORK/old" what=new "$WORK/new" what=updates "$WORK/updates"
}

install() {
  excluded=
  if [ "$T_rejected_action" = BLOCK ]; then
    excluded=$(awk -F '\t' '$1 == "rejected" && $2 !~ /^CVE-/ { print "--exclude=" $2 }' "$TABLE")
  fi
  verb=upgrade
  [ "$TOOL" = dnf ] || verb=update
  set -f
  awk -F '\t' '{
    epoch = ""
    if (match($3, /^[0-9]+:/)) { epoch = substr($3, 1, RLENGTH); $3 = substr($3, RLENGTH + 1) }
    print $1 "-" epoch $3 "." $2
  }' "$1" | quietly xargs $TOOL -y -q $excluded $verb
  code=$?
  set +f
  return "$code"
}
version() { # the newest: of a kernel there are several
  rpm -q --qf '%{INSTALLTIME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n' "$1.$2" 2>/dev/null | sort -n | sed -n '$s/^[0-9]*\t\(0:\)\{0,1\}//p'
}
