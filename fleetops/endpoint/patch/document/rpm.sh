# Amazon Linux, Red Hat and their kin.
if command -v dnf >/dev/null 2>&1; then PROGRAM=dnf; else PROGRAM=yum; fi
TOOL=$PROGRAM

# A baseline's own repositories are used alone; the node's are only looked away from, and need not be put back. One that
# cannot be read is no reason to call a node compliant.
sources() {
  ! own_sources "$WORK/sources" repo || TOOL="$TOOL --setopt=reposdir=$WORK/sources --setopt=skip_if_unavailable=0"
}
no_sources() { rm -rf "$WORK/sources"; }

tool() { $TOOL -q -C "$@" 9>&-; } # what makecache has fetched
facts() {
  command -v "$PROGRAM" >/dev/null 2>&1 || give_up "This node has neither dnf nor yum."
  quietly $TOOL -q -y makecache || return 1
  rpm -qa --qf '%{NAME}\t%{ARCH}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{INSTALLTIME}\n' | sed 's/\t0:/\t/' >"$WORK/installed"
  if [ "$PROGRAM" = dnf ]; then all=--all old=--installed new=--available; else all=all old=installed new=available; fi
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
  [ "$PROGRAM" = dnf ] || verb=update
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
