#!/bin/sh
# A SLURM of one node on this computer, for as long as a command takes: `sh one_node.sh COMMAND [ARGUMENT...]`.
#
# Installs Debian's packages where they are missing, keeps everything else in a folder of its own and on ports of its
# own, needs no systemd, and leaves nothing running. The exit code is the command's, or 2 where it cannot be set up.
set -eu

say() { echo "one_node.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

[ $# -gt 0 ] || fail "give the command to run, such as: sh one_node.sh sinfo"
[ "$(id -u)" = 0 ] || fail "SLURM's daemons start jobs of any user and need root; run this as root, in a container for instance"

missing=
for program in slurmctld slurmd sbatch munged; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "missing:$missing, and there is no apt-get here; install SLURM and munge"
    say "installing slurmctld, slurmd, slurm-client and munge"
    export DEBIAN_FRONTEND=noninteractive
    # no daemon is to start by itself; the policy goes again
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >&2 ||
        fail "apt-get could not install the packages"
    if [ -x "$policy" ] && grep -qx 'exit 101' "$policy"; then rm -f "$policy"; fi
    trap - EXIT
fi

folder=$(mktemp -d)
node=$(hostname -s)
# two at least, so that two tasks run side by side; nproc heeds OMP_NUM_THREADS, which is not meant here
cpus=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
[ "$cpus" -ge 2 ] || cpus=2
memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
ended=
stop() {
    [ -z "$ended" ] || return 0
    ended=yes
    for daemon in slurmd slurmctld munged; do
        [ -s "$folder/$daemon.pid" ] || continue
        number=$(cat "$folder/$daemon.pid")
        kill "$number" 2>/dev/null || continue
        waited=0
        while kill -0 "$number" 2>/dev/null; do
            waited=$((waited + 1))
            [ "$waited" -lt 100 ] || kill -KILL "$number" 2>/dev/null || true
            sleep 0.1
        done
    done
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$folder/munge" "$folder/state" "$folder/spool"
head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 755 "$folder" "$folder/munge"
chmod 600 "$folder/munge/key"
chown -R munge "$folder/munge"
cat >"$folder/slurm.conf" <<END
ClusterName=one_node
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
# a job that goes back into the queue waits for its old credential to expire: for 120 s, if nothing is said
AuthInfo=socket=$folder/munge/socket,cred_expire=5
SlurmdParameters=config_overrides
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_interval=2
MpiDefault=none
ReturnToService=2
KillWait=30
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
case $(slurmctld -V) in
"slurm-wlm 22."* | "slurm 22."*) ;; # knows no such plugin, and does not look for one with the settings above
*) echo 'CgroupPlugin=disabled' >"$folder/cgroup.conf" ;;
esac
export SLURM_CONF="$folder/slurm.conf"

failed() {
    for log in slurmctld slurmd munge/munged; do
        [ ! -s "$folder/$log.log" ] || tail -n 20 "$folder/$log.log" >&2
    done
    fail "$*"
}

runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/munged.log" --seed-file="$folder/munge/seed" ||
    failed "munged does not start"
cp "$folder/munge/pid" "$folder/munged.pid"
slurmctld -f "$SLURM_CONF" || failed "slurmctld does not start"
slurmd -f "$SLURM_CONF" || failed "slurmd does not start"
tries=0
until [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || failed "the node did not become idle"
    sleep 0.5
done

status=0
"$@" || status=$?
scancel --quiet --user=root 2>/dev/null || true
tries=0
while [ -n "$(squeue --noheader 2>/dev/null)" ] && [ "$tries" -lt 40 ]; do
    tries=$((tries + 1))
    sleep 0.5
done
exit "$status"
