"""Completion for bash: Hydra answers the queries, but its own script knows nothing of `python -m train`."""

__all__ = ["BASH"]

#: eval "$(python -m train -sc install=bash)"
BASH = r"""
_expkit_train() {
    local words=($COMP_LINE) helper rest
    case "${words[0]##*/}" in
        python*)
            if [ "${words[1]}" != "-m" ] || [ "${words[2]}" != "train" ]; then
                COMPREPLY=($(compgen -o default -- "${COMP_WORDS[COMP_CWORD]}"))
                return
            fi
            helper="${words[0]} -m train"
            rest="${COMP_LINE#*-m*train}"
            ;;
        *)
            helper="${words[0]}"
            rest="${COMP_LINE#*"${words[0]}"}"
            ;;
    esac
    local line="expkit-train$rest"
    local word="${COMP_LINE##* }"
    local choices=$(COMP_POINT=${#line} COMP_LINE="$line" $helper -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _expkit_train python python3 expkit-train
"""
