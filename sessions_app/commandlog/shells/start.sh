# The command of our session document on Linux and macOS, run by `sh -c`: it becomes the login shell of its user, in
# their home, with integration where that shell has one. @BASH@, @ZSH@ and @SH@ stand for the files beside this one.
# Integrations come in by descriptor 9 and not by a file: nothing is left on the node, and no argument list or
# environment holds the session's secret once `sh -c` has become the shell.
fo_user=$(id -un 2>/dev/null) || fo_user=${USER-}
fo_shell=
fo_home=
fo_entry=
if command -v getent >/dev/null 2>&1; then
  fo_entry=$(getent passwd "$fo_user" 2>/dev/null)
elif [ -x /usr/bin/dscl ]; then
  fo_shell=$(/usr/bin/dscl . -read "/Users/$fo_user" UserShell 2>/dev/null)
  fo_shell=${fo_shell#*: }
  fo_home=$(/usr/bin/dscl . -read "/Users/$fo_user" NFSHomeDirectory 2>/dev/null)
  fo_home=${fo_home#*: }
else
  fo_entry=$(grep "^$fo_user:" /etc/passwd 2>/dev/null)
fi
if [ -n "$fo_entry" ]; then
  fo_shell=${fo_entry##*:}
  fo_home=${fo_entry%:*}
  fo_home=${fo_home##*:}
fi
[ -n "$fo_shell" ] || fo_shell=${SHELL-}
# Of ssm-user, whom the agent makes, nobody has chosen the shell: it is what useradd takes.
case $fo_user:$fo_shell in
  ssm-user:*/bash | ssm-user:*/zsh) ;;
  ssm-user:*) [ ! -x /bin/bash ] || fo_shell=/bin/bash ;;
esac
case $fo_shell in
  */nologin | */false | '') fo_shell=/bin/sh ;;
esac
[ -x "$fo_shell" ] || fo_shell=/bin/sh
# The agent sets HOME to /home/<user>, whatever the passwd entry says. Another one that is the user's own was meant.
case ${HOME-} in
  '' | / | /root | "/home/$fo_user") ;;
  *) [ ! -d "$HOME" ] || [ ! -O "$HOME" ] || fo_home=$HOME ;;
esac
[ -d "$fo_home" ] || fo_home=${HOME:-/}
HOME=$fo_home SHELL=$fo_shell USER=$fo_user LOGNAME=$fo_user
export HOME SHELL USER LOGNAME
cd "$HOME" 2>/dev/null || cd /
[ -e /dev/fd/0 ] || exec "$fo_shell" -i # the terminal itself may not be the user's to open
case $fo_shell in
  */bash) exec "$fo_shell" --rcfile /dev/fd/9 -i 9<<'END_OF_SHELL'
@BASH@
END_OF_SHELL
  ;;
  */zsh) ZDOTDIR=$(mktemp -d 2>/dev/null) || exec "$fo_shell" -l -i
  export ZDOTDIR
  cat >"$ZDOTDIR/.zshenv" <<'END_OF_SHELL'
. /dev/fd/9
END_OF_SHELL
  exec "$fo_shell" -l -i 9<<'END_OF_SHELL'
@ZSH@
END_OF_SHELL
  ;;
  */sh | */dash | */ash | */ksh | */mksh) ENV=/dev/fd/9
  export ENV
  exec "$fo_shell" -i 9<<'END_OF_SHELL'
@SH@
END_OF_SHELL
  ;;
  *) exec "$fo_shell" -l ;;
esac
