# SPDX-License-Identifier: Apache-2.0
# Completion of tidegate for bash: commands and options as its help lists them, names as its daemon tells them within half a second.

_tidegate_names() {
    # "dataflow:node" lines
    tidegate node list -q --timeout 500ms ${1:+--runtime-dir "$1"} 2>/dev/null </dev/null
}

_tidegate() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} line=${COMP_LINE:0:COMP_POINT} candidates='' dir='' i
    COMPREPLY=()

    # `:` breaks words in bash, but not in names
    word=${line##*[[:space:]]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        [ "${COMP_WORDS[i]}" = --runtime-dir ] && dir=${COMP_WORDS[i + 1]}
    done

    if [ "$COMP_CWORD" -eq 1 ] || [ "$command" = help ]; then
        candidates=$(tidegate help 2>/dev/null | sed -n 's/^  \([a-z-]*\) .*/\1/p')
    elif [[ $word == -* ]]; then
        candidates=$(tidegate help "$command" 2>/dev/null | grep -o -e '--[a-z-]\{2,\}' | sort -u)
    else
        case $command in
        run | start | validate | graph)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        node)
            if [ "$COMP_CWORD" -eq 2 ]; then
                candidates='list info stop restart signal'
            else
                candidates=$(_tidegate_names "$dir")
            fi
            ;;
        topic)
            if [ "$COMP_CWORD" -eq 2 ]; then
                candidates='list echo hz info pub'
            else
                candidates=$(tidegate topic list -q --timeout 500ms ${dir:+--runtime-dir "$dir"} 2>/dev/null </dev/null)
            fi
            ;;
        status | stop | restart | pid | tail | logs | events | wait | clean | reset | set-limit | freeze | thaw)
            candidates=$(_tidegate_names "$dir")
            candidates+=$'\n'$(sed 's/:.*//' <<<"$candidates" | sort -u)
            [ "$command" = set-limit ] && [ "$COMP_CWORD" -gt 2 ] &&
                candidates=$(tidegate help set-limit 2>/dev/null | grep -o -e '[a-z]*_[a-z_]*=' | sort -u)
            [ "$command" = wait ] && [ "$COMP_CWORD" -gt 2 ] && candidates+=$'\nrunning\nstopped\nfailed\nended'
            ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$word")

    # What is before the last `:` is already on the line.
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        local before=${word%"${word##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
}

complete -F _tidegate tidegate
