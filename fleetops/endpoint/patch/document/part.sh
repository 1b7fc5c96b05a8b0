# Hands out one part of the report, and after the last one ends the document if nothing is to follow (exit code 168).
total=$(cat "$WORK/parts" 2>/dev/null || echo 0)
[ "$PART" -gt "$total" ] || cat "$WORK/part-$PART"
if [ "$PART" -ge "$total" ]; then
  if [ "$IS_LAST" = yes ] || [ -e "$WORK/over" ]; then
    rm -rf "$WORK"
    exit 168
  fi
  rm -f "$WORK/parts"
fi
exit 0
