# fish completion for kubectl

function __kubectl_candidates
    set -l program kubectl
    if not type -fq kubectl; and type -fq coracle
        set program coracle kubectl
    end
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($program __complete $words[2..-1] "$current" 2>/dev/null)
    set -l directive (string replace -r '^:' '' -- $lines[-1])
    string match -qr '^[0-9]+$' -- "$directive"; or return
    test (math "bitand($directive, 1)") -ne 0; and return
    if test (math "bitand($directive, 24)") -ne 0
        __fish_complete_path "$current"
        return
    end
    set -l prefix (string match -r -- '^-.*=' "$current")
    set -e lines[-1]
    if test (count $lines) -eq 0; and test (math "bitand($directive, 4)") -eq 0
        __fish_complete_path (string replace -r -- '^-.*=' '' "$current")
        return
    end
    for line in $lines
        test -n "$line"; and echo "$prefix$line"
    end
end

complete -c kubectl -e
complete -c kubectl -f -a '(__kubectl_candidates)'
