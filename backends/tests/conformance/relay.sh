#!/bin/bash
# A helper that hands everything on to the server that its URL names: conf://HOST:PORT/PATH. It ends when the server does.
request=
while IFS= read -r line; do
    request+=$line$'\n'
    case $line in
        'url conf://'*) place=${line#url conf://} ;;
        go) break ;;
    esac
done
place=${place%%/*}
exec 3<>"/dev/tcp/${place%:*}/${place##*:}" || exit 1
printf %s "$request" >&3
cat <&0 >&3 2>/dev/null &
cat <&3
kill %1
exit 0
