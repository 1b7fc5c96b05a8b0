# Patches this node by the baseline that came with the command. POSIX sh and awk; runs as root.
umask 022
LC_ALL=C TZ=UTC
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL TZ PATH

# A demo node's packages are files of its own, and nothing else of the machine that it runs on is looked at.
VAR=${SSM_DEMO_VAR:-/var}
STATE=$VAR/lib/amazon/ssm/patch-configuration
WORK=$STATE/run-$RUN_ID
TABLE=$WORK/table
FAILURES=$WORK/failures
MOST_WAIT=600 # seconds for another run on this node to end

say() { printf '%s\n' "$*"; }
complain() {
  say "$*" >&2
  [ ! -d "$WORK" ] || say "$*" | tr '\t' ' ' >>"$FAILURES"
}
give_up() { # give_up WORDS: nothing was reported, so the node's patches are unknown
  complain "$*"
  say "No patch compliance is reported."
  exit 1
}
read_table() { # its single values, as T_name; what is not plain in them is written as %XX, so that none ends its quotes
  T_error='' T_snapshot='' T_baseline='' T_name='' T_override='' T_group='' T_product='' T_list='' T_rejected_action=''
  T_machine='' T_flaky='' T_rendered=''
  eval "$(awk -F '\t' '
    $1 ~ /^(error|snapshot|baseline|name|override|group|product|list|rejected_action|machine|flaky|rendered)$/ {
      print "T_" $1 "=\047" $2 "\047"
    }' "$TABLE")"
}
decoded() { # %XX of the table as text
  case $1 in *%*) ;; *) say "$1"; return ;; esac
  awk -v text="$1" 'BEGIN {
    digits = "0123456789ABCDEF"
    while ((at = index(text, "%")) > 0) {
      code = (index(digits, substr(text, at + 1, 1)) - 1) * 16 + index(digits, substr(text, at + 2, 1)) - 1
      printf "%s%c", substr(text, 1, at - 1), code
      text = substr(text, at + 3)
    }
    print text
  }'
}
now() { # a real node's date can write it; a demo node's clock is another
  if [ "${CLOCK_AHEAD:-0}" = 0 ]; then date -u +%Y-%m-%dT%H:%M:%SZ; return; fi
  awk -f "$WORK/time.awk" -v at="$(($(date +%s) + ${CLOCK_AHEAD:-0}))" -f "$WORK/now.awk"
}
boot() { # names the time between two restarts of this node
  if [ -n "${SSM_DEMO_VAR:-}" ]; then say "demo-${SSM_DEMO_BOOT:-0}"; else cat /proc/sys/kernel/random/boot_id; fi
}

lock() { # one run at a time; what a run starts does not inherit the lock (9>&-)
  mkdir -p "$STATE" || give_up "$STATE cannot be made."
  exec 9>"$STATE/lock"
  waited=0
  while ! flock -n 9 2>/dev/null; do
    command -v flock >/dev/null 2>&1 || give_up "This node has no flock, so two patching runs could not be told apart."
    [ "$waited" -lt "$MOST_WAIT" ] || give_up "Another patching operation runs on this node."
    [ "$waited" -gt 0 ] || say "Another patching operation runs on this node; waiting for it."
    waited=$((waited + 1))
    sleep 1
  done
}

own_sources() { # own_sources DIRECTORY SUFFIX: the baseline's own repositories as files; fails if it has none
  rm -rf "$1"
  awk -F '\t' '$1 == "source" { found = 1 } END { exit !found }' "$TABLE" || return 1
  mkdir -p "$1" || give_up "$1 cannot be made."
  number=0
  awk -F '\t' '$1 == "source" { print $2 }' "$TABLE" | while read -r text; do
    number=$((number + 1))
    say "$text" | base64 -d >"$1/own-$number.$2"
  done
}

quietly() { # quietly COMMAND...: its output is shown only if it fails
  "$@" >"$WORK/output" 2>&1 9>&-
  code=$?
  [ "$code" -ne 0 ] || return 0
  tail -n 25 "$WORK/output" >&2
  return "$code"
}
