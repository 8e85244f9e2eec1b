#!/bin/sh
# A helper in few lines, without any library: the content is always the same.
while read -r line && [ "$line" != go ]; do :; done
printf 'backhaul 1\nbytes 6\netag "1"\ncan-continue\nready\n'
read -r word offset
case $word in
    whole) printf 'data 6\nhello\nend\n' ;;
    continue)
        rest=$(printf 'hello\n' | tail -c "+$((offset + 1))" && echo .)
        rest=${rest%.}
        printf 'data %s\n%send\n' "${#rest}" "$rest"
        ;;
esac
