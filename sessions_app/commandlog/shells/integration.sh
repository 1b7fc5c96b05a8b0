# Marks of sh (dash, BusyBox's ash, ksh, mksh, a bash called sh): the prompt alone can speak there, before each line.
# What the lines are, and when they began, is read from the screen.
# In PS1 only an expansion can count, and a subshell write; neither shows, so that no line editor counts its columns.
exec 9<&-
unset ENV
__fo_nonce={{ nonce }}
__fo_n=1
__fo_z=
__fo_user=$(id -un 2>/dev/null) || __fo_user=${USER-}
__fo_prompt() {
  LC_ALL=C
  set +xveu
  fo_cwd=$PWD
  case $fo_cwd in
    *[!A-Za-z0-9/._-]*) fo_cwd=$(printf %s "$PWD" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g') ;;
  esac
  printf '\033]7717;%s;prompt;%d;exit=%d;cwd=%s;user=%s\007' "$__fo_nonce" "$2" "$1" "$fo_cwd" "$__fo_user" >/dev/tty
}
printf '\033]7717;%s;hello;1;shell=sh;version=\007' "$__fo_nonce"
[ ! -r /etc/profile ] || . /etc/profile
[ ! -r "$HOME/.profile" ] || . "$HOME/.profile"
[ -z "${ENV-}" ] || [ ! -r "$ENV" ] || . "$ENV"
@PROFILE@
PS1='${__fo_z#$((__fo_n=__fo_n+1))}$({ __fo_prompt $? $__fo_n; } 2>/dev/null)'"${PS1:-\$ }"
