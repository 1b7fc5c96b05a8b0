# Facts for decide-windows.awk of a demo node: name; version; installed. TIMES: name; version; installed.
BEGIN { FS = OFS = "\t" }
what == "times" { time[$1, $2] = $3; next }
NF == 2 { print $1, $2, (($1, $2) in time) ? time[$1, $2] : ($2 ~ /^[0-9-]+$/ && length($2) == 10 ? $2 "T20:00:00Z" : "") }
