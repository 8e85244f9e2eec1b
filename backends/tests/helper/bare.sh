#!/bin/sh
# Serves what a program finds that a helper starts: its descriptors, and which signals are blocked.
while read -r line && [ "$line" != go ]; do :; done
found=$(ls /proc/self/fd && grep SigBlk /proc/self/status)
printf 'backhaul 1\nbytes %s\nready\n' "${#found}"
read -r _
printf 'data %s\n%send\n' "${#found}" "$found"
