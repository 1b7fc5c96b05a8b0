# Decides about each package of a node, by the baseline's table and the facts that a package manager told.
#
#   awk -f decide.awk -v mode=plan|report -v operation=Scan|Install what=table TABLE what=facts FACTS \
#       what=tracking TRACKING what=failed FAILED
#
# All files have fields between tabs. Facts, a line for each notice of a version:
#   I or U (installed, or an update to it); name; architecture; version; rank, 1 for the newest; classification;
#   severity; priority; section; product; released (ISO 8601, UTC); CVEs with commas between; 1 if a notice lists it, or
#   for apt if it comes from a security repository; installed (ISO 8601); advisories; bugs of Bugzilla
# Tracking: package; version; installed; 1 if this machine has not been restarted since. Failed: package; version.
# Mode plan gives what an Install installs: name, architecture, version. Mode report gives a line for each package:
#   state; package; version; classification; severity; installed; level; CVEs
BEGIN {
  FS = OFS = "\t"
  split("CRITICAL HIGH MEDIUM LOW INFORMATIONAL UNSPECIFIED", levels, " ")
  for (i = 1; i <= 6; i++) level_rank[levels[i]] = i
  rules = approvals = rejections = globals = filters = overrides = packages = 0
  approved_level = "UNSPECIFIED"
}

what == "table" {
  if ($1 == "family") family = $2
  else if ($1 == "global") { globals++; global_key[globals] = $2; global_values[globals] = rest(3) }
  else if ($1 == "rule") { rules++; rule_level[rules] = $3; rule_all[rules] = $4; rule_cutoff[rules] = $5 }
  else if ($1 == "filter") {
    filters++; filter_rule[filters] = $2; filter_key[filters] = $3; filter_values[filters] = rest(4)
  }
  else if ($1 == "approved") { approvals++; approved[approvals] = $2 }
  else if ($1 == "approved_level") approved_level = $2
  else if ($1 == "approved_non_security") approved_all = $2
  else if ($1 == "rejected") { rejections++; rejected[rejections] = $2 }
  else if ($1 == "rejected_action") rejected_action = $2
  else if ($1 == "install") {
    overrides++; override_id[overrides] = $2; override_version[overrides] = $3
    if (index($2, "*")) wild = wild " " overrides
    else by_id[$2] = by_id[$2] " " overrides
  }
  next
}

what == "tracking" { if ($4 == 1) pending[$1, $2] = $3; next }
what == "failed" { failed[$1, $2] = 1; next }

what == "facts" {
  package = $2 "." $3
  if (!(package in seen)) { seen[package] = 1; packages++; order[packages] = package }
  if ($1 == "I") {
    if (!(package in here_rank) || $5 + 0 < here_rank[package]) {
      here_rank[package] = $5 + 0; here[package] = $4; here_at[package] = $14; here_worst[package] = 9
      here_approved[package] = 0; here_cves[package] = ""
      here_class[package] = $6; here_severity[package] = $7
      here_rejected[package] = is_rejected()
      here_level[package] = "UNSPECIFIED"
    }
    if ($4 == here[package]) {
      here_cves[package] = joined(here_cves[package], $12)
      if (here_rejected[package]) next
      level = approval()
      if (level != "" && (!here_approved[package] || severity_rank($7) < here_worst[package])) {
        here_class[package] = $6; here_severity[package] = $7; here_worst[package] = severity_rank($7)
      }
      if (level != "" && (!here_approved[package] || level_rank[level] < level_rank[here_level[package]]))
        here_level[package] = level
      if (level != "") here_approved[package] = 1
    }
    next
  }
  wanted = overrides ? is_overridden() : 0
  level = is_rejected() ? "" : approval()
  if (wanted || (!overrides && level != "")) {
    if (!(package in plan_rank) || $5 + 0 < plan_rank[package]) {
      plan_rank[package] = $5 + 0; plan[package] = $4; plan_name[package] = $2; plan_architecture[package] = $3
    }
  }
  if (wanted || level != "") {
    if (level == "") level = "UNSPECIFIED"
    if (!(package in new_rank) || $5 + 0 < new_rank[package]) { new_rank[package] = $5 + 0; new[package] = $4 }
    if (!(package in new_worst) || severity_rank($7) < new_worst[package]) {
      new_worst[package] = severity_rank($7); new_class[package] = $6; new_severity[package] = $7
    }
    if (!(package in new_level) || level_rank[level] < level_rank[new_level[package]]) new_level[package] = level
    new_cves[package] = joined(new_cves[package], $12)
  }
}

END {
  for (i = 1; i <= packages; i++) {
    package = order[i]
    if (mode == "plan") {
      if (package in plan) print plan_name[package], plan_architecture[package], plan[package]
      continue
    }
    if (package in new) {
      if (operation == "Scan") {
        print "MISSING", package, new[package], new_class[package], new_severity[package], "", new_level[package], \
          new_cves[package]
        continue
      }
      if ((package, plan[package]) in failed) {
        print "FAILED", package, plan[package], new_class[package], new_severity[package], "", new_level[package], \
          new_cves[package]
        continue
      }
    }
    if (!(package in here)) continue
    at = here_at[package]
    if (here_rejected[package] && rejected_action == "BLOCK")
      print "INSTALLED_REJECTED", package, here[package], here_class[package], here_severity[package], at, \
        "UNSPECIFIED", here_cves[package]
    else if ((package, here[package]) in pending)
      print "INSTALLED_PENDING_REBOOT", package, here[package], here_class[package], here_severity[package], \
        pending[package, here[package]], here_level[package], here_cves[package]
    else if (here_approved[package])
      print "INSTALLED", package, here[package], here_class[package], here_severity[package], at, \
        here_level[package], here_cves[package]
    else
      print "INSTALLED_OTHER", package, here[package], "", "", at, "UNSPECIFIED", ""
  }
}

# The level at which the version of this line is approved; "" if it is not. As decide.py, which says why.
function approval(    n, best) {
  best = ""
  for (n = 1; n <= approvals; n++)
    if (($13 == 1 || approved_all == 1) && is_named(approved[n])) { best = approved_level; break }
  for (n = 1; n <= globals; n++) if (!has_one(global_values[n], values(global_key[n]))) return best
  for (n = 1; n <= rules; n++)
    if (fits(n) && (best == "" || level_rank[rule_level[n]] < level_rank[best])) best = rule_level[n]
  return best
}

function fits(n,    i) {
  if ($13 != 1 && rule_all[n] != 1) return 0
  if (rule_cutoff[n] != "-" && $11 != "" && $11 > rule_cutoff[n]) return 0
  for (i = 1; i <= filters; i++)
    if (filter_rule[i] == n && !has_one(filter_values[i], values(filter_key[i]))) return 0
  return 1
}

# What a version has of a filter's key, with tabs between.
function values(key,    text) {
  if (key == "PRODUCT") return $10
  if (key == "CLASSIFICATION") return $6
  if (key == "SEVERITY") return $7
  if (key == "PRIORITY") return $8
  if (key == "SECTION") return $9
  if (key == "PATCH_SET") return "OS"
  if (key == "NAME" || key == "PATCH_ID") return $2
  if (key == "ARCH") return $3
  parts_of($4)
  if (key == "EPOCH") return found_epoch
  if (key == "VERSION") return found_version
  if (key == "RELEASE") return found_release
  text = ""
  if (key == "ADVISORY_ID") text = $15
  if (key == "CVE_ID") text = $12
  if (key == "BUGZILLA_ID") text = $16
  gsub(/,/, "\t", text)
  return text
}

function has_one(wanted, had,    ways, ones, m, n, i, j) {
  n = split(wanted, ways, "\t")
  m = split(had, ones, "\t")
  for (i = 1; i <= n; i++) {
    if (ways[i] == "*") return 1
    if (m == 0 && ways[i] == "") return 1
    for (j = 1; j <= m; j++) if (plain(ways[i]) == plain(ones[j])) return 1
  }
  return 0
}

function plain(text) {
  if (text ~ /^AmazonLinux/) sub(/\.0$/, "", text)
  return tolower(text)
}

function is_rejected(    n) {
  for (n = 1; n <= rejections; n++) if (is_named(rejected[n])) return 1
  return 0
}

# A list may have thousands of entries: those that name no package as it stands are not gone through for each.
function is_overridden(    ones, m, i, n) {
  parts_of($4)
  m = split(by_id[$2] by_id[$2 "." $3] wild, ones, " ")
  for (i = 1; i <= m; i++) {
    n = ones[i]
    if ((is_like($2, override_id[n]) || is_like($2 "." $3, override_id[n])) && \
        (override_version[n] == "" || is_like($4, override_version[n]) || \
         is_like(found_epoch ":" found_full, override_version[n]) || is_like(found_full, override_version[n]) || \
         is_like($2 "." $3 ":" $4, override_version[n]) || \
         is_like($2 "." $3 ":" found_epoch ":" found_full, override_version[n])))
      return 1
  }
  return 0
}

# Whether a list's entry means the version of this line. apt's are bare names; others may hold version and wildcards.
function is_named(pattern,    ones, n, i) {
  if (is_like($2, pattern)) return 1
  if (family == "apt") return 0
  if (is_one_like($15, pattern)) return 1
  if (family == "rpm" && (is_one_like($12, pattern) || is_one_like($16, pattern))) return 1
  parts_of($4)
  if (is_like($2 "." $3, pattern) || is_like($2 "-" found_version, pattern) || is_like($2 "-" found_full, pattern) || \
      is_like($2 "-" found_full "." $3, pattern)) return 1
  if (family == "suse") return is_like($2 "-" found_full "." $3 ".rpm", pattern)
  return is_like(found_version, pattern) || is_like(found_full, pattern) || \
    is_like(found_epoch ":" found_full, pattern) || is_like($2 "-" found_epoch ":" found_full, pattern) || \
    is_like($2 "-" found_epoch ":" found_full "." $3, pattern) || \
    is_like(found_epoch ":" $2 "-" found_full "." $3, pattern) || \
    is_like($2 "." $3 ":" found_epoch ":" found_full, pattern)
}

function is_one_like(list, pattern,    ones, n, i) {
  n = split(list, ones, ",")
  for (i = 1; i <= n; i++) if (is_like(ones[i], pattern)) return 1
  return 0
}

# [epoch:]version-release
function parts_of(text) {
  found_epoch = "0"
  if (match(text, /^[0-9]+:/)) { found_epoch = substr(text, 1, RLENGTH - 1); text = substr(text, RLENGTH + 1) }
  found_full = text
  if (match(text, /-[^-]*$/)) { found_version = substr(text, 1, RSTART - 1); found_release = substr(text, RSTART + 1) }
  else { found_version = text; found_release = "" }
}

# A pattern with * for any characters; the whole text has to fit.
function is_like(text, pattern,    parts, n, i, at) {
  if (index(pattern, "*") == 0) return text == pattern
  n = split(pattern, parts, "*")
  if (substr(text, 1, length(parts[1])) != parts[1]) return 0
  text = substr(text, length(parts[1]) + 1)
  for (i = 2; i < n; i++) {
    if (parts[i] == "") continue
    at = index(text, parts[i])
    if (at == 0) return 0
    text = substr(text, at + length(parts[i]))
  }
  return length(text) >= length(parts[n]) && substr(text, length(text) - length(parts[n]) + 1) == parts[n]
}

function severity_rank(word) {
  word = tolower(word)
  if (word == "critical") return 1
  if (word == "important") return 2
  if (word == "moderate" || word == "medium") return 3
  if (word == "low") return 4
  return 5
}

function joined(list, more,    parts, n, i) {
  n = split(more, parts, ",")
  for (i = 1; i <= n; i++)
    if (parts[i] != "" && index("," list ",", "," parts[i] ",") == 0) list = list (list == "" ? "" : ",") parts[i]
  return list
}

function rest(from,    text, i) {
  text = $from
  for (i = from + 1; i <= NF; i++) text = text "\t" $i
  return text
}
