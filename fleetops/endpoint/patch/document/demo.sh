# A demo node: its packages are a list in its own /var, and a repository's offers came with the command.
DEMO=$VAR/lib/fleetops-demo
SINCE=2026-01-05T06:00:00Z # what was never patched was there from the beginning

sources() { :; }
no_sources() { :; }

facts() {
  mkdir -p "$DEMO" && touch "$DEMO/times"
  awk -f "$WORK/facts.awk" -v product="$T_product" -v machine="$T_machine" -v since="$SINCE" what=offers "$TABLE" \
    what=times "$DEMO/times" what=installed "$VAR/lib/packages/installed"
}

install() {
  token=$T_flaky
  while read -r name machine version; do
    sleep "${DEMO_PACE:-0.2}"
    if [ -n "$token" ] && [ ! -e "$DEMO/failed-$token" ]; then
      : >"$DEMO/failed-$token"
      say "Error: post-installation script of $name $version failed with exit status 1" >&2
      continue
    fi
    awk -F '\t' -v OFS='\t' -v name="$name" -v version="$version" '$1 == name { $2 = version } { print }' \
      "$VAR/lib/packages/installed" >"$WORK/packages" && mv "$WORK/packages" "$VAR/lib/packages/installed"
    printf '%s\t%s\t%s\n' "$name" "$version" "$(now)" >>"$DEMO/times"
  done <"$1"
}
version() { awk -F '\t' -v name="$1" '$1 == name { print $2; exit }' "$VAR/lib/packages/installed"; }
