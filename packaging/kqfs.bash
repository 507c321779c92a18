# Bash completion for kqfs: options from the command itself, then directories.
# shellcheck disable=SC2034 # _init_completion sets words, cword and split
_kqfs() {
    local cur prev words cword split
    _init_completion -s || return
    case $prev in
    --data | --mountpoint)
        _filedir -d
        return
        ;;
    --user)
        mapfile -t COMPREPLY < <(compgen -u -- "$cur")
        return
        ;;
    --config)
        _filedir
        return
        ;;
    --topic)
        return
        ;;
    -o)
        local known='allow_other allow_root auto_unmount ro rw suid nosuid dev nodev exec noexec
            fsname= subtype= data= config= num.partitions= topic.retention.ms='
        local before=
        [[ $cur == *,* ]] && before=${cur%,*},
        mapfile -t COMPREPLY < <(compgen -P "$before" -W "$known" -- "${cur##*,}")
        compopt -o nospace
        return
        ;;
    esac
    if [[ ${words[1]-} == export && $cword -gt 1 ]]; then
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '--data --config --topic --overwrite --commands --help' -- "$cur")
        else
            _filedir -d
        fi
        return
    fi
    if [[ ${words[1]-} == passwd && $cword -gt 1 ]]; then
        [[ $cur == -* ]] && mapfile -t COMPREPLY < <(compgen -W \
            '--delete --data --config --user --mountpoint --help' -- "$cur")
        return
    fi
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "-f -d -s -h -V -o $(_parse_help "$1")
            --topic.retention.ms --topic.retention.bytes --topic.segment.bytes" -- "$cur")
    else
        _filedir -d
        [[ $cword == 1 && export == "$cur"* ]] && COMPREPLY+=(export)
        [[ $cword == 1 && passwd == "$cur"* ]] && COMPREPLY+=(passwd)
    fi
} && complete -F _kqfs kqfs
