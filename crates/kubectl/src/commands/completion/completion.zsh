#compdef kubectl
# zsh completion for kubectl

_kubectl() {
    local -a program lines candidates
    local directive line name
    program=(kubectl)
    if ! whence -p kubectl >/dev/null && whence -p coracle >/dev/null; then
        program=(coracle kubectl)
    fi
    lines=("${(@f)$("${program[@]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    directive="${lines[-1]#:}"
    [[ "$directive" == <-> ]] || return 1
    lines[-1]=()
    (( directive & 1 )) && return 1
    if (( directive & 8 )); then
        _files -g '*.(json|yaml|yml)'
        return
    fi
    if (( directive & 16 )); then
        _files -/
        return
    fi
    # What stands before "=" stays.
    compset -P '-*='
    for line in $lines; do
        [[ -z "$line" ]] && continue
        name="${line%%$'\t'*}"
        name="${name//:/\\:}"
        if [[ "$line" == *$'\t'* ]]; then
            candidates+=("$name:${line#*$'\t'}")
        else
            candidates+=("$name")
        fi
    done
    if (( ${#candidates} == 0 )); then
        (( directive & 4 )) || _files
        return
    fi
    local -a options
    (( directive & 2 )) && options+=(-S '')
    if (( directive & 32 )); then
        _describe -V 'kubectl' candidates "${options[@]}"
    else
        _describe 'kubectl' candidates "${options[@]}"
    fi
}

# As a file of $fpath this is the function's body; sourced, it only defines it.
if [[ "$funcstack[1]" == "_kubectl" ]]; then
    _kubectl
elif (( $+functions[compdef] )); then
    compdef _kubectl kubectl
fi
