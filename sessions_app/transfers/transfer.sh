# The command of our session document for files, run by `sh -c` on the node's terminal: one upload or one download.
# What it says is lines that begin with @; what it hears are lines of 80 bytes, and behind `p` so many of base64. They
# are no work for `read`: bash takes what follows along. Nothing of path or name is ever read by the shell: they come in
# base64, between quotes. Ctrl-C, at any moment, ends it tidily.
LC_ALL=C
export LC_ALL
direction='{{ direction }}' overwrite='{{ overwrite }}' part={{ part }}
temporary=
hear() { line=$(dd bs=1 count=80 2>/dev/null) && [ -n "$line" ]; }
say() { printf '@%s\n' "$*"; }
tidy() { [ -z "$temporary" ] || rm -f "$temporary"; }
fail() {
  trap '' INT HUP TERM
  tidy
  say fail "$@"
  exit 1
}
trap 'trap "" INT HUP TERM; tidy; say fail stopped; exit 1' INT HUP TERM
# Raw, so that no line is too long and no byte means anything; but Ctrl-C still does.
stty -icanon -echo -iexten -ixon -icrnl -inlcr -igncr -istrip -opost isig intr '^C' quit undef susp undef min 1 time 0 2>/dev/null ||
  stty -icanon -echo -iexten -ixon -icrnl -inlcr -igncr -istrip -opost isig min 1 time 0 || fail tool stty
for tool in base64 dd find head id ln mv rm wc; do
  command -v "$tool" >/dev/null 2>&1 || fail tool "$tool"
done
d=-d
[ "$(printf Rg== | base64 -d 2>/dev/null)" = F ] || d=-D
if command -v sha256sum >/dev/null 2>&1; then
  sum() { sha256sum; }
elif command -v shasum >/dev/null 2>&1; then
  sum() { shasum -a 256; }
else
  fail tool sha256sum
fi
# A dot behind what is decoded keeps newlines at its end, which $(...) takes away.
path=$(printf %s '{{ path }}' | base64 $d && printf .) || fail tool base64
path=${path%.}
name=$(printf %s '{{ name }}' | base64 $d && printf .) || fail tool base64
name=${name%.}
case $path in
  /*) ;;
  *)
    user=$(id -un 2>/dev/null)
    home=
    case $user in
      *[!A-Za-z0-9_.-]* | '' | -*) ;;
      *) eval "home=~$user" ;;
    esac
    [ -d "$home" ] || home=${HOME:-/}
    case $path in
      '~') path=$home ;;
      '~/'*) path=${home%/}/${path#'~/'} ;;
      *) path=${home%/}/$path ;;
    esac
    ;;
esac
said() { printf %s "$1" | base64 | while IFS= read -r line; do printf %s "$line"; done; }

if [ "$direction" = download ]; then
  [ -e "$path" ] || {
    directory=${path%/*}/
    while [ -n "$directory" ] && [ ! -d "$directory" ]; do directory=${directory%/}; directory=${directory%/*}; done
    [ -x "${directory:-/}" ] || fail denied
    fail missing
  }
  [ -f "$path" ] || fail irregular
  [ -r "$path" ] || fail denied
  exec 3<"$path" || fail denied
  set -- $(wc -c <"$path")
  say ready "$1" "$(said "$path")"
  while hear; do
    case $line in
      'n '*)
        dd bs="$part" count=1 <&3 2>/dev/null | base64
        say part
        ;;
      's '*)
        set -- $(sum <"$path")
        say sum "$1"
        exit 0
        ;;
      *) fail protocol ;;
    esac
  done
  exit 1
fi

case $path in
  */) path=$path$name ;;
  *) [ ! -d "$path" ] || path=$path/$name ;;
esac
directory=${path%/*}
[ -d "$directory/" ] || fail directory
[ -w "$directory/" ] && [ -x "$directory/" ] || fail denied
is_there() { [ -e "$path" ] || [ -L "$path" ]; }
if is_there; then
  [ "$overwrite" = yes ] || fail exists
  [ -f "$path" ] || fail irregular
fi
# What a killed one has left: nobody has written to it for a quarter of an hour.
find "$directory/" -maxdepth 1 -type f -name '.fleetops-*.part' -user "$(id -u)" -mmin +15 -exec rm -f {} + 2>/dev/null
wanted="$directory/.fleetops-{{ id }}.part"
problem=$( (umask 077 && set -C && : >"$wanted" && rm -f "$wanted") 2>&1) || fail other "$problem"
# Made and opened in one: whose folder it is might put a link to another's file there in between.
mask=$(umask)
umask 077
set -C
command exec 3>"$wanted" || fail other
set +C
umask "$mask"
temporary=$wanted
# Some implementations of head read more than they are asked for: then nothing may be sent ahead.
ahead=$(printf ab | { head -c 1 >/dev/null; head -c 1; })
say ready "${ahead:-x}" "$(said "$path")"
while hear; do
  case $line in
    'p '*)
      set -- $line
      problem=$(head -c "$2" | { base64 $d 2>&1 >&3 || printf ' status %s' "$?"; })
      case $problem in
        '') say part ;;
        *'o space'*) fail full ;;
        *uota*) fail quota ;;
        *'too large'* | *'status 153'*) fail large ;;
        *) fail other "$problem" ;;
      esac
      ;;
    's '*)
      set -- $line
      wanted=$2
      set -- $(sum <"$temporary")
      [ "$1" = "$wanted" ] || fail sum "$1"
      found=$1
      made=/dev/fd/3 # the file itself, whatever its name leads to by now
      [ -e "$made" ] || made=$temporary
      if [ "$overwrite" = yes ] && is_there; then
        mode=$(stat -c %a "$path" 2>/dev/null || stat -f %Lp "$path" 2>/dev/null)
        case $mode in
          '' | *[!0-7]*) chmod "$(umask -S),a-x" "$made" ;;
          *) chmod "$mode" "$made" ;;
        esac
      else
        chmod "$(umask -S),a-x" "$made"
      fi 2>/dev/null
      exec 3>&-
      if [ "$overwrite" = yes ]; then
        [ ! -d "$path" ] || fail irregular
        problem=$(mv -f "$temporary" "$path" 2>&1) || fail other "$problem"
      elif ln "$temporary" "$path" 2>/dev/null; then
        rm -f "$temporary"
      else
        # It is there by now, or this file system has no links.
        is_there && fail exists
        problem=$(mv -n "$temporary" "$path" 2>&1) || fail other "$problem"
        [ ! -e "$temporary" ] || fail exists
      fi
      temporary=
      say sum "$found"
      exit 0
      ;;
    *) fail protocol ;;
  esac
done
fail stopped
