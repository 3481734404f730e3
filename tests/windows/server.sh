#!/bin/sh
# The receiving side of real_client.ps1, on Linux or in WSL: sh server.sh run|kill|log|can-reply
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bitsferry=${BITSFERRY:-$HOME/bitsferry/.venv/bin/bitsferry}
work=${WORK:-$HOME/real-client}
mkdir -p "$work"
cd "$work"

settings() {  # $1: what else stands in the directory for upload-replies
    cat <<TOML
listen = ["${LISTEN:-127.0.0.1:8080}"]
store = "file:./store"

[[directory]]
url = "/in/"
folder = "./in"
read_back = "everybody"
allow_overwrites = true

[[directory]]
url = "/replies/"
folder = "./replies"
allow_overwrites = true
$1
TOML
}

replies='notification_type = "value"
notification_url = "http://127.0.0.1:9000/"'

can_reply() {
    settings "$replies" > replies.toml
    "$bitsferry" serve --config replies.toml --check-config > /dev/null 2>&1
}

case $1 in
run)  # returns when the server listens; it stays
    if can_reply; then
        cp replies.toml bitsferry.toml
        test -s application.pid && kill "$(cat application.pid)" 2> /dev/null || true
        setsid nohup python3 "$here/application.py" < /dev/null > application.log 2>&1 &
        echo $! > application.pid
    else
        settings "" > bitsferry.toml
    fi
    : > out
    setsid nohup "$bitsferry" serve --config bitsferry.toml < /dev/null > out 2>> log &
    echo $! > server.pid
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        grep -q '^listening on' out && exit 0
        kill -0 "$(cat server.pid)" 2> /dev/null || break
        sleep 0.5
    done
    cat log >&2
    exit 1
    ;;
kill)  # as a power cut would
    kill -KILL "$(cat server.pid)"
    ;;
log)
    cat log
    ;;
can-reply)
    can_reply
    ;;
*)
    echo "usage: server.sh run|kill|log|can-reply" >&2
    exit 2
    ;;
esac
