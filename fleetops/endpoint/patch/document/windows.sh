# A demo node that simulates Windows: what is installed on it is a list in its own /var, as on all demo nodes, and the
# service has decided about each update. Its lines: article; day of its release.
facts() {
  mkdir -p "$DEMO" && touch "$DEMO/times"
  awk -f "$WORK/facts.awk" what=times "$DEMO/times" what=installed "$VAR/lib/packages/installed"
}
install() {
  while read -r name machine version; do
    sleep "${DEMO_PACE:-0.2}"
    printf '%s\t%s\n' "$name" "$version" >>"$VAR/lib/packages/installed"
    printf '%s\t%s\t%s\n' "$name" "$version" "$(now)" >>"$DEMO/times"
  done <"$1"
}
