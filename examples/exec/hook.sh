#!/bin/sh
# A program for the driver "exec", with the tools of POSIX alone: of each object it makes a file of
# one line in $HOOK_DIR. docs/drivers.md specifies what it reads and answers.
#
# What it can't do: it knows no JSON, but cuts lines at the places where the fields are promised to
# be. That is exact as long as no text has to be escaped. So it refuses, by an error of that object,
# what has a backslash, a quote or a line's end in its key, value, note or attributes, and bytes that
# are no text. A program that needs those takes jq, or a language that reads JSON: see hook.py.
set -u
dir=${HOOK_DIR:-/var/lib/espalier-hook}
sync=${HOOK_SYNC:-sync} # all disks; with GNU's tools "sync -f /var/lib/espalier-hook" is faster
mkdir -p "$dir" || exit 1

ok() { printf '{"id":"%s","ok":true}\n' "$1"; }
failed() { printf '{"id":"%s","error":"%s"}\n' "$1" "$2"; }
drift() { printf '{"id":"%s","drift":"%s"}\n' "$1" "$2"; }

# apply puts a value in place: the old line or the new one, never half of one.
apply() {
	printf '%s\n' "$2" >"$dir/.new" && mv -f "$dir/.new" "$dir/$1"
}

check() { # ID NAME, and the value if contents are asked for
	if ! [ -f "$dir/$2" ]; then
		drift "$1" missing
	elif [ $# -eq 3 ] && [ "$(cat "$dir/$2")" != "$3" ]; then
		drift "$1" "another line"
	else
		ok "$1"
	fi
}

made= # the ids of what is in place, and not yet answered for
# A line without an end is not whole: the agent died while it wrote, and read returns false.
while IFS= read -r line; do
	rest=${line#'{"id":"'}
	id=${rest%%'"'*}
	case $line in
	*'\'*)
		failed "$id" "this program reads no escapes: no quotes, backslashes or line ends"
		continue
		;;
	esac
	rest=${rest#*'","op":"'}
	op=${rest%%'"'*}
	rest=${rest#*'","name":"'}
	name=${rest%%'"'*}
	case $name in
	'' | .* | */*)
		failed "$id" "this program wants a name without a slash, and without a dot in front"
		continue
		;;
	esac
	case $rest in
	*',"value_base64":"'*)
		failed "$id" "this program reads text alone"
		continue
		;;
	*',"value":"'*)
		value=${rest#*',"value":"'}
		value=${value%%'"'*}
		set -- "$value"
		;;
	*) set -- ;;
	esac
	case $op in
	apply) apply "$name" "$1" && made="$made $id" || failed "$id" "can not write to $dir" ;;
	delete) rm -f "$dir/$name" && made="$made $id" || failed "$id" "can not remove from $dir" ;;
	check) check "$id" "$name" "$@" ;;
	*) failed "$id" "this program knows nothing of $op" ;;
	esac
done

# What is reported done has to outlive a power cut. One sync for all is cheaper than one for each.
[ -z "$made" ] && exit 0
$sync || exit 1
for id in $made; do ok "$id"; done
