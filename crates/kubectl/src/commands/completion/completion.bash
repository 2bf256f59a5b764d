# bash completion for kubectl

__kubectl_candidates() {
    local program=(kubectl)
    if ! type -P kubectl >/dev/null && type -P coracle >/dev/null; then
        program=(coracle kubectl)
    fi
    "${program[@]}" __completeNoDesc "$@" 2>/dev/null
}

__start_kubectl() {
    local line="${COMP_LINE:0:COMP_POINT}" words=() current answer directive candidate
    # Split at blanks: COMP_WORDS is also cut at ":" and "=".
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current="${words[${#words[@]}-1]}"
    COMPREPLY=()
    answer=$'\n'"$(__kubectl_candidates "${words[@]:1}")" || return
    directive="${answer##*$'\n':}"
    answer="${answer%$'\n':*}"
    [[ $directive =~ ^[0-9]+$ ]] || return
    (( directive & 1 )) && return
    (( directive & 2 )) && compopt -o nospace 2>/dev/null
    (( directive & 32 )) && compopt -o nosort 2>/dev/null
    [[ $current == -*=* ]] && current="${current#*=}"
    if (( directive & 8 )); then
        compopt -o filenames 2>/dev/null
        while IFS= read -r candidate; do
            [[ -d $candidate || $candidate == *.json || $candidate == *.yaml || $candidate == *.yml ]] && COMPREPLY+=("$candidate")
        done < <(compgen -f -- "$current")
        return
    fi
    if (( directive & 16 )); then
        compopt -o filenames 2>/dev/null
        while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -d -- "$current")
        return
    fi
    (( directive & 4 )) && compopt +o default 2>/dev/null
    # The shell replaces only what follows the last ":" or "=".
    local done_already="${current%"${current##*[:=]}"}"
    [[ $COMP_WORDBREAKS == *:* ]] || done_already=""
    while IFS= read -r candidate; do
        [[ -n $candidate && $candidate == "$current"* ]] && COMPREPLY+=("${candidate#"$done_already"}")
    done <<<"$answer"
}

complete -o default -F __start_kubectl kubectl
