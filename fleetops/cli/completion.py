"""Completion for bash, zsh and fish. The shells ask `fleetops __complete WORDS…` what may stand for the last word."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

# A completer in a parser's action: called with what was typed so far and the words before it.
Completer = Callable[[str], list[str]]

BASH = r"""# fleetops completion for bash. In ~/.bashrc:  eval "$(fleetops completion bash)"
_fleetops() {
    local word IFS=$'\n'
    COMPREPLY=()
    while read -r word; do
        COMPREPLY+=("$word")
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _fleetops fleetops
"""

ZSH = r"""#compdef fleetops
# fleetops completion for zsh. In ~/.zshrc, after compinit:  eval "$(fleetops completion zsh)"
_fleetops() {
    local -a found
    found=("${(@f)$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if (( ${#found} )) && [[ -n "${found[1]}" ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
compdef _fleetops fleetops
"""

FISH = r"""# fleetops completion for fish. Once:  fleetops completion fish > ~/.config/fish/completions/fleetops.fish
function __fleetops_complete
    set -l before (commandline -opc)
    $before[1] __complete $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c fleetops -f -a '(__fleetops_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What may stand in place of the last of `words`, which is what is being typed."""
    typed = words[-1] if words else ""
    pending: argparse.Action | None = None  # an option that waits for its value
    position = 0
    for word in words[:-1]:
        if pending is not None:
            pending = None
            continue
        option = parser._option_string_actions.get(word)
        if option is not None:
            pending = option if option.nargs != 0 else None
            continue
        if word.startswith("-") and word != "-":
            continue
        verbs = _verbs(parser)
        if verbs is not None:
            if word not in verbs.choices:
                return []
            parser, position = verbs.choices[word], 0
        else:
            position += 1
    return sorted({each for each in _offers(parser, pending, position, typed) if each.startswith(typed)})


def _offers(
    parser: argparse.ArgumentParser, pending: argparse.Action | None, position: int, typed: str
) -> Iterator[str]:
    if pending is not None:
        yield from _values(pending, typed)
    elif typed.startswith("-"):
        yield from (name for name in parser._option_string_actions if name.startswith("--"))
    elif (verbs := _verbs(parser)) is not None:
        yield from verbs.choices
    else:
        places = [action for action in parser._actions if not action.option_strings]
        if places:
            last = places[min(position, len(places) - 1)]
            if position < len(places) or last.nargs in {"*", "+"}:
                yield from _values(last, typed)


def _verbs(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)


def _values(action: argparse.Action, typed: str) -> list[str]:
    if action.choices:
        return [str(choice) for choice in action.choices]
    completer: Completer | None = getattr(action, "completer", None)
    return completer(typed) if completer else []
