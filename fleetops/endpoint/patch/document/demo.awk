# Facts for decide.awk of a demo node: what it has installed, beside what its platform's repository offers.
#
#   awk -v product=P -v machine=x86_64 what=offers TABLE what=times TIMES what=installed INSTALLED
#
# TABLE: its lines offer; name; architecture; version; rank; classification; severity; priority; section; released;
# CVEs; 1 for a security update; advisory. INSTALLED: name; version. TIMES: name; version; installed.
BEGIN { FS = OFS = "\t" }

what == "offers" {
  if ($1 != "offer") next
  many[$2]++; offer[$2, many[$2]] = $3 OFS $4 OFS $5 OFS $6 OFS $7 OFS $8 OFS $9 OFS product OFS $10 OFS $11 OFS $12 OFS
  rank[$2, $4] = $5; architecture[$2] = $3; advisory[$2, many[$2]] = $13; line[$2, $4] = many[$2]
  released[$2, $4] = $10
  next
}

what == "times" { time[$1, $2] = $3; next }

NF == 2 {
  at = ($1, $2) in time ? time[$1, $2] : ((($1, $2) in released) ? released[$1, $2] : since)
  if (($1, $2) in line) print "I", $1, offer[$1, line[$1, $2]] at, advisory[$1, line[$1, $2]], ""
  else print "I", $1, (($1 in architecture) ? architecture[$1] : machine), $2, 100000, "", "", "", "", product, "", "", 0, at, "", ""
  for (n = 1; n <= many[$1]; n++) {
    split(offer[$1, n], fields, OFS)
    if (!(($1, $2) in rank) || fields[3] + 0 < rank[$1, $2] + 0) print "U", $1, offer[$1, n], advisory[$1, n], ""
  }
}
