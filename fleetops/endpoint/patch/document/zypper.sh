# SUSE Linux Enterprise and openSUSE.
ZYPP_LOCK_TIMEOUT=600 ZYPP_CONF=$WORK/zypp.conf
export ZYPP_LOCK_TIMEOUT ZYPP_CONF

# zypper runs with a configuration of this run's: the node's own, but for a file of locks. Where the baseline has
# repositories of its own, these alone are in it. Nothing of the node's is changed, so nothing has to be put back.
sources() {
  mkdir -p "$WORK/zypp"
  {
    say '[main]'
    grep -vE '^[[:space:]]*(\[main\]|locksfile\.path|locksfile\.apply)' /etc/zypp/zypp.conf 2>/dev/null
    say "locksfile.path = $WORK/zypp/locks"
    say 'locksfile.apply = yes'
    if own_sources "$WORK/zypp/repos" repo; then
      mkdir -p "$WORK/zypp/services"
      say "reposdir = $WORK/zypp/repos"
      say "servicesdir = $WORK/zypp/services"
      say "cachedir = $WORK/zypp/cache"
    fi
  } >"$ZYPP_CONF"
}
locks() { # locks no|yes: the node's own, and what may come as no dependency either
  cat /etc/zypp/locks >"$WORK/zypp/locks" 2>/dev/null
  [ "$1$T_rejected_action" = yesBLOCK ] || return 0
  awk -F '\t' '$1 == "rejected" {
    print "\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: " $2
  }' "$TABLE" >>"$WORK/zypp/locks"
}
no_sources() { rm -rf "$WORK/zypp" "$WORK/zypp.conf"; }

tool() { zypper --non-interactive --no-refresh "$@" 9>&-; } # what refresh has fetched
tags() { tr '\n' ' ' | tr '<' '\n'; } # XML, a tag a line
facts() {
  command -v zypper >/dev/null 2>&1 || give_up "This node has no zypper."
  locks no # an update whose dependency is rejected is missing all the same
  quietly zypper --non-interactive refresh || return 1
  rpm -qa --qf '%{NAME}\t%{ARCH}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{INSTALLTIME}\n' | sed 's/\t0:/\t/' >"$WORK/installed"
  tool --xmlout list-patches --all >"$WORK/output" || return 1
  tags <"$WORK/output" >"$WORK/patches"
  # A patch names its packages as what it conflicts with: their older versions.
  sed -n '/ status="not-needed"/d; s/^update kind="patch" name="\([^"]*\)".*/\1/p' "$WORK/patches" | sort -u >"$WORK/names"
  : >"$WORK/info"
  [ ! -s "$WORK/names" ] || xargs zypper --non-interactive --no-refresh --quiet info -t patch <"$WORK/names" >"$WORK/info" 9>&- || return 1
  tool --xmlout list-updates -t package >"$WORK/output" || return 1
  tags <"$WORK/output" >"$WORK/updates"
  awk -f "$WORK/time.awk" -f "$WORK/facts.awk" -v product="$T_product" FS='\t' \
    what=installed "$WORK/installed" FS=' ' what=patches "$WORK/patches" what=info "$WORK/info" what=updates "$WORK/updates"
}

install() {
  locks yes
  awk -F '\t' '{ print $1 "." $2 "=" $3 }' "$1" | quietly xargs zypper --non-interactive --no-refresh --quiet install \
    --no-force-resolution --auto-agree-with-licenses --no-recommends
  code=$?
  case $code in 102 | 103) return 0 ;; esac # it is installed, and something is to be restarted
  return "$code"
}
version() { # the newest: of a kernel there are several
  rpm -q --qf '%{INSTALLTIME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n' "$1.$2" 2>/dev/null | sort -n | sed -n '$s/^[0-9]*\t\(0:\)\{0,1\}//p'
}
