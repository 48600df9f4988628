#!/bin/sh
# Starts one of three Redis servers that sentinels watch, or the sentinel beside it:
#   sentinel.sh redis|sentinel [OPTION OF redis-server ...]
#
# REDIS_HOST is the name of this server, REDIS_HOSTS has those of all three. The first one is the master until the
# sentinels choose another, which they keep in the volumes.
set -eu
umask 077
folder=$(dirname "$0")
data=${REDIS_DIR:-/data}
known=$data/sentinel.conf
run=$(dirname "${REDIS_USERS:-/run/redis/users.acl}")
part=$1
shift

# What the configuration of both has about TLS, and options of redis-cli.
tls='' cli=''
if [ "${REDIS_SCHEME:-redis}" = rediss ]; then
    keys=${REDIS_TLS:-/etc/redis-tls}
    tls="tls-replication yes
tls-auth-clients no
tls-cert-file $keys/tls.crt
tls-key-file $keys/tls.key
tls-ca-cert-file $keys/ca.crt"
    cli="--tls --cacert $keys/ca.crt"
fi

# The master of the newest failover that a sentinel knows of, of those that run and by the file of this one.
master() {
    {
        echo "0 ${REDIS_HOSTS%% *}"
        awk '$2 == "monitor" { host = $4 } $2 == "config-epoch" { epoch = $4 } END { if (host) print epoch + 0, host }' \
            "$known" 2>/dev/null || true
        for host in $REDIS_HOSTS; do
            [ "$host" != "$REDIS_HOST" ] || continue
            # shellcheck disable=SC2086
            timeout 3 redis-cli -h "$host" -p 26379 $cli --raw sentinel master millrace 2>/dev/null |
                awk 'last == "ip" { host = $0 } last == "config-epoch" { epoch = $0 } { last = $0 }
                    END { if (host) print epoch + 0, host }' || true
        done
    } | sort -s -n -k 1,1 | tail -n 1 | cut -d ' ' -f 2
}

leader=$(master)
if [ "$part" = redis ]; then
    {
        printf '%s\n' "$tls" "masteruser sentinel" "masterauth $REDIS_SENTINEL_PASSWORD" "replica-announce-ip $REDIS_HOST"
        # A master that is cut off from both replicas refuses writes, which would be lost.
        printf '%s\n' "min-replicas-to-write 1" "min-replicas-max-lag 10"
        [ "$leader" = "$REDIS_HOST" ] || echo "replicaof $leader 6379"
    } >"$run/replication.conf"
    exec sh "$folder/start.sh" --include "$run/replication.conf" "$@"
fi

state=$(grep -E '^sentinel (monitor|myid|known-|[a-z]+-epoch)' "$known" 2>/dev/null || true)
digest=$(printf '%s' "$REDIS_SENTINEL_PASSWORD" | sha256sum | cut -c 1-64)
cat >"$known" <<END
$([ -n "$tls" ] && printf 'port 0\ntls-port 26379\n%s\n' "$tls" || echo 'port 26379')
dir $data
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $REDIS_HOST
${state:-sentinel monitor millrace $leader 6379 2}
sentinel down-after-milliseconds millrace 5000
sentinel failover-timeout millrace 20000
sentinel auth-user millrace sentinel
sentinel auth-pass millrace $REDIS_SENTINEL_PASSWORD
sentinel sentinel-user sentinel
sentinel sentinel-pass $REDIS_SENTINEL_PASSWORD
user default on nopass resetkeys resetchannels &+switch-master -@all +@connection +subscribe +role +sentinel|get-master-addr-by-name +sentinel|masters +sentinel|master +sentinel|replicas +sentinel|sentinels +sentinel|ckquorum
user sentinel on #$digest allchannels +@all
END
exec env -i PATH="$PATH" redis-server "$known" --sentinel "$@"
