# Marks of zsh, 4.3.11 and later; see ../marks.py for what they say. Read as .zshenv of a directory made for this, before
# the user's own files, which zsh then reads from where they are.
exec 9<&-
command rm -rf -- "$ZDOTDIR"
unset ZDOTDIR
typeset -g __fo_nonce={{ nonce }} __fo_out= __fo_user=${USERNAME:-$USER}
typeset -gi __fo_n=0 __fo_run=0 __fo_status=0

__fo_encode() {
  emulate -L zsh
  setopt extended_glob no_multibyte
  __fo_out=${1[1,16384]//(#m)[^ -\$\&-:\<-\~]/%${(l:2::0:)$(([##16]#MATCH))}}
}

__fo_write() {
  emulate -L zsh
  __fo_n+=1
  { builtin printf '\033]7717;%s;%s;%s%s\007' "$__fo_nonce" "$1" $__fo_n "$2" >/dev/tty } 2>/dev/null
}

__fo_preexec() {
  { __fo_tell "$@" } 2>/dev/null # set -x is the user's, and not for this
}

__fo_tell() {
  emulate -L zsh
  local fields= text=${1:-$3}
  if [[ -n $text ]] {
    __fo_encode "$text"
    fields=";text=$__fo_out"
    (( $#text <= 16384 )) || fields+=';cut=1'
  }
  __fo_encode "$PWD"
  __fo_write command "$fields;cwd=$__fo_out;user=$__fo_user"
  __fo_run=1
}

__fo_precmd() {
  { __fo_prompt } 2>/dev/null
}

__fo_prompt() {
  __fo_status=$?
  emulate -L zsh
  if (( ! __fo_n )) {
    __fo_encode "$ZSH_VERSION"
    __fo_write hello ";shell=zsh;version=$__fo_out"
    preexec_functions=(__fo_preexec $preexec_functions)
  }
  if (( __fo_run )) {
    __fo_write done ";exit=$__fo_status"
    __fo_run=0
  }
  __fo_encode "$PWD"
  __fo_write prompt ";cwd=$__fo_out;user=$__fo_user;exit=$__fo_status"
}

# The account's shell profile, once the user's own files are read.
__fo_profile() {
  precmd_functions=(${precmd_functions:#__fo_profile})
@PROFILE@
}

typeset -ga precmd_functions preexec_functions
precmd_functions=(__fo_profile __fo_precmd $precmd_functions)
if [[ -r ~/.zshenv ]]; then
  . ~/.zshenv
fi
