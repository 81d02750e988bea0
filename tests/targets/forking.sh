#!/bin/bash
# A shell that forks all the time and checks what its children say: the victim whose children a
# tracker must leave alone. Protocol as in tests/victim.py; any line is answered with the count.
count=0
kept=()

failed() {
	echo "FAILED $*"
	exit 1
}

echo ready
while :; do
	# shellcheck disable=SC2116 # the child is the point
	said=$(echo "$count")
	[ "$said" = "$count" ] || failed "child said $said, not $count"
	(exit 3)
	[ $? = 3 ] || failed "subshell's status is lost"
	printf '%s\n' "$count" | cat | read -r _ || failed "pipe"
	/bin/true || failed "/bin/true"
	# Most children are gone in a millisecond; some live long enough to be met.
	[ $((count % 8)) = 0 ] && sleep 0.03
	kept[count % 500]=$(printf '%200s' "$count")
	[ "${#kept[count % 500]}" = 200 ] || failed "kept ${kept[count % 500]}"
	count=$((count + 1))
	if read -r -t 0; then
		read -r line || line=stop
		[ "$line" = stop ] && break
		echo "$count"
	fi
done
for i in "${!kept[@]}"; do
	[ $((kept[i] % 500)) = "$i" ] || failed "entry $i is ${kept[i]}"
done
echo "ok $count"
