# Marks of bash, 3.2 and later; see ../marks.py for what they say.
#
# The line that runs is taken from bash's own history list: nothing else has it whole. While a line is read, HISTCONTROL
# and HISTIGNORE are empty, so that each line gets there; before it runs (PS0 gives the variables back, a DEBUG trap that
# removes itself puts the entry again) they hold what the user wants, and the history is what it would have been. Where
# the user has a DEBUG trap of their own it stays, and the entry is put right at the next prompt.
# PS0 (bash 4.4) tells a line before it runs. Before that the DEBUG trap does, and of a line that runs no command of this
# shell (a function's definition, a subshell) the next prompt.
# All output goes to the terminal itself, whatever the user has done to the shell's descriptors.
__fo_nonce={{ nonce }}
exec 9<&-
__fo_n=0 __fo_run=0 __fo_ready=0 __fo_armed=0 __fo_status=0 __fo_began=0 __fo_out= __fo_line= __fo_z=('') __fo_watch=0 __fo_number=0 __fo_more=0 __fo_seen=0
__fo_control= __fo_ignore= __fo_mode= __fo_cwd= __fo_cwd_out=
__fo_user=$(id -un 2>/dev/null) || __fo_user=${USER-}

# Percent-encode $1 into __fo_out, at most 16,384 bytes of it.
__fo_encode() {
  local LC_ALL=C s=${1:0:16384} part clean c n
  __fo_out=
  while [[ -n $s ]]; do
    part=${s:0:256}
    s=${s:256}
    part=${part//[%]/%25}
    part=${part//;/%3B}
    part=${part//$'\n'/%0A}
    while [[ $part == *[!\ -~]* ]]; do
      clean=${part%%[!\ -~]*}
      part=${part#"$clean"}
      builtin printf -v n %d "'${part:0:1}"
      builtin printf -v c '%%%02X' $((n & 255))
      __fo_out+=$clean$c
      part=${part:1}
    done
    __fo_out+=$part
  done
}

# Write the mark of kind $1, with the fields $2, and the number __fo_n.
__fo_write() {
  { builtin printf '\033]7717;%s;%s;%s%s\007' "$__fo_nonce" "$1" "$__fo_n" "$2" >/dev/tty; } 2>/dev/null || :
}

__fo_encode_cwd() {
  if [[ $PWD != "$__fo_cwd" || -z $__fo_cwd_out ]]; then
    __fo_encode "$PWD"
    __fo_cwd=$PWD __fo_cwd_out=$__fo_out
  fi
}

# The line that was put into the history since the prompt, into __fo_line; false if there is none.
__fo_read_line() {
  local last
  __fo_split "$(HISTTIMEFORMAT= builtin history 1 2>/dev/null)" || return 1
  ((__fo_number > __fo_began)) || return 1
  if ((__fo_number > __fo_began + 1 && !__fo_more)) && ! builtin shopt -q cmdhist; then # an entry for each line of it
    last=$(HISTTIMEFORMAT= builtin fc -ln "$((__fo_began + 1))" "$((__fo_number - 1))" 2>/dev/null)
    last=${last//$'\n\t '/$'\n'}
    __fo_line=${last#$'\t '}$'\n'$__fo_line
  fi
}

# The number and the text of an entry as `history` prints it, into __fo_number and __fo_line.
__fo_split() {
  local s=$1
  s=${s#"${s%%[! ]*}"}
  __fo_number=${s%%[!0-9]*}
  [[ -n $__fo_number ]] || return 1
  s=${s#"$__fo_number"}
  __fo_line=${s:2}
}

__fo_tell() {
  local fields=
  if [[ -n $__fo_line ]]; then
    __fo_encode "$__fo_line"
    fields=";text=$__fo_out"
    ((${#__fo_line} <= 16384)) || fields+=';cut=1'
  fi
  __fo_encode_cwd
  __fo_write command "$fields;cwd=$__fo_cwd_out;user=$__fo_user"
}

# In a subshell of PS0, whose expansion has just counted; $1 is what the line before returned. Where no prompt came since
# that one, they were pasted together.
__fo_preexec() {
  set +xveu
  if ((__fo_more)); then
    ((__fo_n -= 1))
    __fo_write done ";exit=$1"
    ((__fo_n += 1))
  fi
  __fo_read_line || __fo_line=
  __fo_tell
}

# Give HISTCONTROL and HISTIGNORE back, and let bash judge the line by them.
__fo_disarm() {
  local line
  ((__fo_armed)) || return 0
  __fo_armed=0
  [[ -z $__fo_control ]] || HISTCONTROL=$__fo_control
  [[ -z $__fo_ignore ]] || HISTIGNORE=$__fo_ignore
  if __fo_read_line && { ((__fo_number == __fo_began + 1)) || builtin shopt -q cmdhist; }; then
    builtin history -d "$__fo_number"
    builtin history -s -- "$__fo_line"
    line=$__fo_line __fo_seen=0
    ! __fo_split "$(HISTTIMEFORMAT= builtin history 1 2>/dev/null)" || __fo_seen=$__fo_number
    __fo_line=$line
  fi
}

# From the DEBUG trap; true once it has done its work and the trap can go.
__fo_debug() {
  local status=$1
  if ((__fo_run && __fo_watch)); then # the line is running, or has run and a PROMPT_COMMAND without us is next
    case "${PROMPT_COMMAND[*]-}" in
      *__fo_last*) return 1 ;;
    esac
    __fo_add
    __fo_status=$status
    __fo_last ''
    return 1
  fi
  if [[ $__fo_mode == ps0 ]]; then
    ((__fo_run)) || return 1 # a key binding or a completion runs, not a line
    __fo_read_line || __fo_line=
  else
    ((__fo_ready)) && __fo_read_line || return 1
    __fo_n=$((__fo_n + 1)) __fo_run=1 __fo_ready=0
    __fo_tell
  fi
  __fo_disarm
  case $__fo_line in
    *PROMPT_COMMAND* | *source* | .\ * | *[!0-9A-Za-z./_-].\ * | *eval*) __fo_watch=1 ;;
  esac
  ((!__fo_watch))
}

# The first of PROMPT_COMMAND.
__fo_first() {
  __fo_status=$?
  case $- in
    *e*) return 0 ;;
  esac
  return $__fo_status
}

# The last of PROMPT_COMMAND; $1 is the DEBUG trap of this moment. True if ours is to be set.
__fo_last() {
  if ((__fo_ready)) && [[ $__fo_mode != ps0 ]] && __fo_read_line; then
    __fo_n=$((__fo_n + 1)) __fo_run=1
    __fo_tell
  fi
  if ((__fo_run)); then
    __fo_run=0 __fo_watch=0 __fo_n=$((__fo_n + 1))
    __fo_write done ";exit=$__fo_status"
    __fo_disarm
  fi
  if ((!__fo_armed)); then
    __fo_control=${HISTCONTROL-} __fo_ignore=${HISTIGNORE-}
  else
    [[ -z ${HISTCONTROL-} ]] || __fo_control=$HISTCONTROL
    [[ -z ${HISTIGNORE-} ]] || __fo_ignore=$HISTIGNORE
  fi
  __fo_armed=0
  if [[ -n $__fo_control$__fo_ignore ]]; then
    __fo_armed=1
    [[ -z $__fo_control ]] || HISTCONTROL=
    [[ -z $__fo_ignore ]] || HISTIGNORE=
  fi
  __fo_encode_cwd
  __fo_n=$((__fo_n + 1)) __fo_ready=1
  __fo_write prompt ";cwd=$__fo_cwd_out;user=$__fo_user;exit=$__fo_status"
  __fo_mode=debug
  if ((__fo_has_ps0)) && builtin shopt -q promptvars; then
    __fo_mode=ps0
    [[ ${PS0-} == "$__fo_ps0"* ]] || PS0=$__fo_ps0${PS0-}
  elif ((__fo_has_ps0)); then
    PS0=${PS0-}
    PS0=${PS0#"$__fo_ps0"}
  fi
  __fo_began=0 __fo_seen=0
  if [[ $__fo_mode == ps0 ]]; then
    __fo_seen=$((HISTCMD - 1))
    builtin shopt -qo history || __fo_seen=$((1 << 60)) # HISTCMD is 1 then, whatever the list holds
  elif __fo_split "$(HISTTIMEFORMAT= builtin history 1 2>/dev/null)"; then
    __fo_began=$__fo_number
  fi
  [[ -z $1 || $1 == *__fo_debug* ]]
}

# In PS0: arithmetic and := alone can change this shell's variables there.
__fo_ps0='${__fo_z[__fo_more=__fo_run,__fo_n+=1+__fo_run,__fo_run=1,__fo_began=__fo_seen,__fo_seen=__fo_seen<1<<60?HISTCMD-1:__fo_seen,0]}'
__fo_ps0+='${__fo_z[0]#${HISTCONTROL:=$__fo_control}}${__fo_z[0]#${HISTIGNORE:=$__fo_ignore}}$({ __fo_preexec $?; } 2>/dev/null)'
__fo_has_ps0=0
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)) || __fo_has_ps0=1

# Before the user's own files: they may make aliases of what is used above.
__fo_trap='{ __fo_arg=$_; __fo_debug $? && builtin trap - DEBUG; : "$__fo_arg"; } 2>/dev/null' # $_ is the user's
__fo_add() {
  local first='{ __fo_first; } 2>/dev/null'
  local last='{ __fo_last "$(builtin trap -p DEBUG)" && builtin trap "$__fo_trap" DEBUG; } 2>/dev/null'
  if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) && [[ $(declare -p PROMPT_COMMAND 2>/dev/null) == 'declare -a'* ]]; then
    PROMPT_COMMAND=("$first" "${PROMPT_COMMAND[@]}" "$last")
  else
    PROMPT_COMMAND=$first${PROMPT_COMMAND:+$'\n'$PROMPT_COMMAND}$'\n'$last
  fi
}

[[ ! -r /etc/profile ]] || . /etc/profile
if [[ -r ~/.bash_profile ]]; then
  . ~/.bash_profile
elif [[ -r ~/.bash_login ]]; then
  . ~/.bash_login
elif [[ -r ~/.profile ]]; then
  . ~/.profile
elif [[ -r ~/.bashrc ]]; then
  . ~/.bashrc
fi
@PROFILE@
__fo_add
__fo_n=1
__fo_encode "$BASH_VERSION"
__fo_write hello ";shell=bash;version=$__fo_out"
