# Seconds since 1970 as ISO 8601, UTC: not every awk has strftime. Howard Hinnant, "chrono-compatible date algorithms".
function iso(seconds,    days, era, day, year, doy, month, left) {
  seconds = int(seconds)
  days = int(seconds / 86400); left = seconds - days * 86400
  days += 719468; era = int(days / 146097); day = days - era * 146097
  year = int((day - int(day / 1460) + int(day / 36524) - int(day / 146096)) / 365)
  doy = day - (365 * year + int(year / 4) - int(year / 100))
  month = int((5 * doy + 2) / 153)
  day = doy - int((153 * month + 2) / 5) + 1
  month = month < 10 ? month + 3 : month - 9
  year += era * 400 + (month <= 2)
  return sprintf("%04d-%02d-%02dT%02d:%02d:%02dZ", year, month, day, int(left / 3600), int(left % 3600 / 60), left % 60)
}
