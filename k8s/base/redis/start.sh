#!/bin/sh
# Starts Redis with the users in users.acl, in the cluster and in compose: start.sh [OPTION OF redis-server ...]
# REDIS_SERVER is another server than the redis-server on PATH.
#
# `>API_PASSWORD` in that file stands for the password in REDIS_API_PASSWORD, and so on. Only SHA-256 digests are
# written, and the server starts with an empty environment, so passwords do not appear in arguments, files or /proc.
# A user whose password is not set is turned off. `probe` is for the health checks of the container.
# A snapshot `restore.rdb` beside the data takes their place: docs/backup.md.
set -eu
umask 077
folder=$(dirname "$0")
data=${REDIS_DIR:-/data}
users=${REDIS_USERS:-/run/redis/users.acl}
server=${REDIS_SERVER:-redis-server}

if ! grep -E '^user default( .*)? (allkeys|~\*)( .*)? (\+@all|allcommands)$' "$folder/users.acl" |
    grep -Evq ' reset(keys)? '; then
    echo "start.sh: $folder/users.acl needs the line 'user default off resetpass allkeys allchannels +@all': Redis loads" \
        "its append-only file with the rights of default, and would skip what they do not allow." >&2
    exit 1
fi
# Data that can be read are not given up for a snapshot that cannot.
check=${server%-server}-check-rdb
if [ -e "$data/restore.rdb" ] && {
    ! head -c 6 "$data/restore.rdb" | grep -Eq '^(REDIS|VALKEY)' ||
        { command -v "$check" >/dev/null && ! "$check" "$data/restore.rdb" >&2; }
}; then
    mv "$data/restore.rdb" "$data/restore.rdb.refused"
    echo "start.sh: restore.rdb is cut off, damaged or of a newer version: it is called restore.rdb.refused now, and the" \
        "data are what they were. Copy the snapshot again." >&2
fi
# Every version reads a snapshot as an append-only file of the old kind, and newer ones move it into their folder.
if [ -e "$data/restore.rdb" ]; then
    for old in "$data/appendonlydir" "$data/appendonly.aof"; do
        [ ! -e "$old" ] || { rm -rf "$old.before" && mv "$old" "$old.before"; }
    done
    mv "$data/restore.rdb" "$data/appendonly.aof"
fi
# Without its list of files, Redis would start empty beside them: a copy may lack it.
for file in "$data"/appendonlydir/*.incr.aof; do
    if [ -s "$file" ] && ! ls "$data"/appendonlydir/*.manifest >/dev/null 2>&1; then
        echo "start.sh: $data/appendonlydir has no manifest, so Redis would not read $file: copy all of the folder again, or" \
            "move it away to start without these data." >&2
        exit 1
    fi
done
# Redis 6 has neither read-only keys nor rules in parentheses.
case $("$server" --version) in
*' v=6.'*) rules='s/%R~/~/g; s/ ([^)]*)//g' ;;
*) rules= ;;
esac

grep '^user ' "$folder/users.acl" | sed "$rules" | while read -r line; do
    # The shell cuts the line by itself: sed would take a process for each user and step.
    name=${line#* >} && name=${name%% *} && before=${line%%" >$name"*}
    case $name in
    *[!A-Z_]*) ;;
    *_PASSWORD)
        after=${line#"$before >$name"}
        if password=$(printenv "REDIS_$name") && [ -n "$password" ]; then
            digest=$(printf '%s' "$password" | sha256sum)
            line="$before #${digest%% *}$after"
        else
            line="${before% on} off$after"
        fi
        ;;
    esac
    printf '%s\n' "$line"
done >"$users"
echo 'user probe on nopass resetkeys resetchannels -@all +ping' >>"$users"
exec env -i PATH="$PATH" "$server" "$folder/redis.conf" --dir "$data" --aclfile "$users" "$@"
