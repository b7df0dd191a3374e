# The keeper: runs one job and outlives the process that started it.
#
# $1 is the directory to remove at the end (empty: none), $2 the file that takes
# the job's output (empty: file 3), the rest is the job.
#
# File 3 is the write end of a pipe: the job and all its children inherit it, so
# that the reader sees its end when the last of them is gone. Standard input is
# a pipe that only the starting process holds: its end means that this process
# is gone, however it ended.
remove=$1 log=$2
shift 2
if [ -n "$log" ]; then
	"$@" </dev/null >>"$log" 2>&1 &
else
	"$@" </dev/null >&3 2>&1 &
fi
job=$!
exec 3>&-
# Only now: an ignored signal would be ignored in the job too.
trap '' HUP INT QUIT TERM
echo "$job"

while read -r word; do
	case $word in
	status) wait "$job" && echo 0 || echo $? ;;
	leave) exit 0 ;;
	esac
done

# The owner is gone. SIGQUIT is PostgreSQL's immediate stop, and initdb cleans
# up at it. It is repeated because a program that has just been started as a
# background job of sh ignores it until it installs its handler.
exec >/dev/null 2>&1
(
	n=0
	while [ "$n" -lt 15 ] && kill -QUIT "$job"; do
		sleep 1
		n=$((n + 1))
	done
	kill -KILL "$job"
) &
stopper=$!
wait "$job"
kill -KILL "$stopper"
[ -z "$remove" ] || rm -rf -- "$remove"
