# The run itself: begin, or go on after a restart; look; install; look again; report.
PART_SIZE=22000 # characters; an agent shows 24,000 of a step [SSM, StandardOutputContent]

begin() {
  # A demo node keeps to its own lists, and a real one has none.
  case $BACKEND:${SSM_DEMO_VAR:+demo} in
    none:*) give_up "No patch baseline came with this command; run it through FleetOps's endpoint." ;;
    demo:demo) ;;
    demo: | *:demo) give_up "This node is not what the endpoint takes it for; nothing was done." ;;
  esac
  mkdir -p "$WORK" || give_up "$WORK cannot be made."
  find "$STATE" -mindepth 1 -maxdepth 1 -name 'run-*' -mmin +2880 -exec rm -rf {} + 2>/dev/null
  unpack
  read_table
  [ -z "$T_error" ] || give_up "$(decoded "$T_error")"
  CLOCK_AHEAD=0
  BOOT=$(boot)
  if [ -n "${SSM_DEMO_VAR:-}" ] && [ -n "$T_rendered" ]; then # a demo node's clock is the endpoint's
    [ -s "$WORK/ahead" ] || say $((T_rendered - $(date +%s))) >"$WORK/ahead"
    CLOCK_AHEAD=$(cat "$WORK/ahead")
  fi
  [ -s "$WORK/started" ] || now >"$WORK/started"
  touch "$FAILURES" "$WORK/failed" "$STATE/states"
}

look() { # the facts anew
  facts >"$WORK/facts.new" || give_up "The package manager could not tell what is installed and available."
  mv "$WORK/facts.new" "$WORK/facts"
}

decide() { # decide plan|report
  awk -F '\t' -v OFS='\t' -v boot="$BOOT" '{ print $1, $2, $3, ($4 == boot ? 1 : 0) }' "$STATE/states" >"$WORK/tracking"
  awk -f "$WORK/decide.awk" -v mode="$1" -v operation="$OPERATION" what=table "$TABLE" what=facts "$WORK/facts" \
    what=tracking "$WORK/tracking" what=failed "$WORK/failed"
}

apply() { # install what the plan says: all at once, and one by one if that fails, so that one bad patch stops no other
  sort -u "$WORK/plan" >"$WORK/left"
  at=$(now)
  # What a restart has to make real. Written first: a run that is killed may have installed some of it. What is not
  # installed in the end, in this very version, is not waited for.
  {
    awk -F '\t' -v boot="$BOOT" '$4 == boot' "$STATE/states"
    awk -F '\t' -v OFS='\t' -v at="$at" -v boot="$BOOT" '{ print $1 "." $2, $3, at, boot }' "$WORK/left"
  } >"$WORK/states"
  mv "$WORK/states" "$STATE/states"
  install "$WORK/left" || {
    say "Installing all patches at once failed; trying each by itself."
    while read -r line; do
      say "$line" >"$WORK/one"
      IFS='	' read -r name machine version <"$WORK/one"
      [ "$(version "$name" "$machine")" = "$version" ] || install "$WORK/one" </dev/null ||
        complain "$name $version could not be installed."
    done <"$WORK/left"
  }
  : >"$WORK/failed"
  installed=0
  while IFS='	' read -r name machine version; do
    if [ "$(version "$name" "$machine")" = "$version" ]; then
      installed=$((installed + 1))
      say "Installed $name.$machine $version"
    else
      printf '%s.%s\t%s\n' "$name" "$machine" "$version" >>"$WORK/failed"
      complain "Failed $name.$machine $version"
    fi
  done <"$WORK/left"
  if [ "$REBOOT_OPTION" = NoReboot ] && [ "$installed" -gt 0 ]; then
    say "$at" >"$STATE/last-no-reboot-install"
  fi
}

count() { # the patches by state, as N_STATE
  N_INSTALLED=0 N_INSTALLED_OTHER=0 N_INSTALLED_PENDING_REBOOT=0 N_INSTALLED_REJECTED=0 N_MISSING=0 N_FAILED=0 N_ALL=0
  eval "$(awk -F '\t' '{ n[$1]++ } END { for (state in n) print "N_" state "=" n[state]; print "N_ALL=" NR }' "$WORK/decided")"
}
is_pending() { [ "$N_INSTALLED_PENDING_REBOOT" -gt 0 ]; }

report() { # write the report in parts, and its summary to the output
  decide report >"$WORK/decided" || give_up "The patches could not be decided on."
  count
  ended=$(now)
  last=-
  [ ! -s "$STATE/last-no-reboot-install" ] || last=$(cat "$STATE/last-no-reboot-install")
  pending=0
  ! is_pending || pending=1
  serial=$(($(cat "$WORK/serial" 2>/dev/null || say 0) + 1))
  say "$serial" >"$WORK/serial"
  {
    printf 'fleetops-patch-report\t1\nrun\t%s\t%s\t%s\n' "$RUN_ID" "$NODE_ID" "$serial"
    printf 'operation\t%s\nreboot_option\t%s\n' "$OPERATION" "$REBOOT_OPTION"
    printf 'snapshot\t%s\nbaseline\t%s\t%s\nlist\t%s\n' "$T_snapshot" "$T_baseline" "$T_override" "$T_list"
    printf 'started\t%s\nended\t%s\npending\t%s\nlast_no_reboot\t%s\n' "$(cat "$WORK/started")" "$ended" "$pending" "$last"
    [ ! -s "$FAILURES" ] || sort -u "$FAILURES" | head -n 50 | cut -c 1-300 | awk '{ print "failure\t" $0 }'
    awk -F '\t' -v OFS='\t' '{ print "p", $0 }' "$WORK/decided"
    printf 'end\t%s\n' "$N_ALL"
  } >"$WORK/report"
  rm -f "$WORK"/part-*
  gzip -9 -n -c "$WORK/report" | base64 | tr -d '\n' >"$WORK/packed"
  digest=$(sha256sum <"$WORK/packed" | cut -d ' ' -f 1)
  size=$(wc -c <"$WORK/packed")
  total=$(((size + PART_SIZE - 1) / PART_SIZE))
  if [ "$total" -gt "$PARTS" ]; then
    complain "The report has $total parts, more than the $PARTS that a command can hand out."
    total=0
  fi
  number=0
  while [ "$number" -lt "$total" ]; do
    number=$((number + 1))
    dd if="$WORK/packed" of="$WORK/part" bs="$PART_SIZE" skip=$((number - 1)) count=1 2>/dev/null
    {
      say "FLEETOPS-PATCH-REPORT $RUN_ID $NODE_ID $serial $number/$total $(sha256sum <"$WORK/part" | cut -d ' ' -f 1) $digest"
      cat "$WORK/part"
      say
      say FLEETOPS-PATCH-REPORT-END
    } >"$WORK/part-$number"
  done
  rm -f "$WORK/part" "$WORK/packed"
  say "$total" >"$WORK/parts"
  summary
}

summary() {
  {
    say "Patch Summary for $NODE_ID"
    say
    say "PatchGroup                    : $(decoded "$T_group")"
    say "BaselineId                    : $T_baseline"
    say "Baseline                      : $(decoded "$T_name")"
    say "SnapshotId                    : $T_snapshot"
    say "RebootOption                  : $REBOOT_OPTION"
    say "OperationType                 : $OPERATION"
    say "OperationStartTime            : $(cat "$WORK/started")"
    say "OperationEndTime              : $ended"
    say "InstalledCount                : $N_INSTALLED"
    say "InstalledOtherCount           : $N_INSTALLED_OTHER"
    say "InstalledPendingRebootCount   : $N_INSTALLED_PENDING_REBOOT"
    say "InstalledRejectedCount        : $N_INSTALLED_REJECTED"
    say "MissingCount                  : $N_MISSING"
    say "FailedCount                   : $N_FAILED"
    say
    awk -F '\t' '$1 == "MISSING" || $1 == "FAILED" {
      if (++n <= 40) print $1 " " $2 " " $3 " " $4 " " $5 " " $8
    } END { if (n > 40) print "and " n - 40 " more" }' "$WORK/decided"
  } >"$WORK/summary"
}

finish() { # finish CODE
  no_sources
  cat "$WORK/summary"
  [ ! -s "$WORK/said" ] || cat "$WORK/said"
  exit "$1"
}

outcome() { if [ "$N_FAILED" -gt 0 ] || [ "$(cat "$WORK/parts")" -eq 0 ]; then say 1; else say 0; fi; }

run() {
  begin
  lock
  trap no_sources EXIT
  sources
  if [ -s "$WORK/restarting" ]; then # the agent runs this again after the restart that it was asked for
    rm -f "$WORK/restarting"
    say "Going on after the restart of this node." >>"$WORK/said"
    look
    report
    finish "$(outcome)"
  fi
  case $PHASE in
    whole) whole ;;
    first) first ;;
    install) install_only ;;
    restart) restart_only ;;
  esac
}

whole() {
  look
  if [ "$OPERATION" = Install ]; then
    apply_plan
    report
    restart_if_needed
    finish "$(outcome)"
  fi
  report
  finish 0
}

apply_plan() {
  decide plan >"$WORK/plan"
  [ -s "$WORK/plan" ] || return 0
  apply >>"$WORK/said"
  look
}

restart_if_needed() {
  if [ "$REBOOT_OPTION" = RebootIfNeeded ] && is_pending; then
    say yes >"$WORK/restarting"
    say "This node is restarted, because patches have been installed." >>"$WORK/said"
    finish 194
  fi
}

# AWS-RunPatchBaselineWithHooks: scan; if there is anything to do, hook, install, hook, restart; hook.

first() {
  wanted_operation=$OPERATION
  OPERATION=Scan
  look
  report
  OPERATION=$wanted_operation
  decide plan >"$WORK/plan"
  if [ "$OPERATION" = Scan ]; then
    say scan >"$WORK/over"
  elif [ ! -s "$WORK/plan" ] && { [ "$REBOOT_OPTION" = NoReboot ] || ! is_pending; }; then
    say "There is nothing to install." >>"$WORK/said"
    say nothing >"$WORK/over"
  fi
  finish 0
}

install_only() {
  : >"$WORK/said"
  look
  apply_plan
  report
  finish "$(outcome)"
}

restart_only() {
  : >"$WORK/said"
  decide report >"$WORK/decided"
  count
  restart_if_needed
  rm -f "$WORK/parts" # the report of the installation is out already
  finish 0
}

run
