#!/usr/bin/env bash
# A real SLURM of two nodes on this machine, for tests: nothing outside DIR is written, and only processes that it
# started itself are ever stopped. Several can run at once, each in a folder of its own.
#
#   cluster.sh install          install what it needs, where apt is to be had
#   cluster.sh start DIR        start it, and print what to export: eval "$(tests/slurm/cluster.sh start DIR)"
#   cluster.sh env DIR          print that again
#   cluster.sh stop DIR         end its jobs and daemons; the logs stay in DIR
#   cluster.sh lose DIR NODE    let a node (n1 or n2) die with all that runs there, as a power cut does
#   cluster.sh restore DIR NODE let it come back
#
# It needs root, python3, and the packages of Debian that are named below. KILL_WAIT: seconds from TERM to KILL.
set -euo pipefail

readonly USAGE="usage: cluster.sh install, cluster.sh start|env|stop DIR, or cluster.sh lose|restore DIR NODE"
readonly PACKAGES="slurmctld slurmd slurm-client munge procps hostname"
readonly NODES="n1 n2"

fail() { echo "error: $*" >&2; exit 1; }

missing() {
  for program in munged slurmctld slurmd sbatch scontrol python3 ps hostname; do
    command -v "$program" > /dev/null || printf ' %s' "$program"
  done
}

install() {
  [ -n "$(missing)" ] || return 0
  [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || fail "missing:$(missing); only root can install it, with apt-get"
  # shellcheck disable=SC2086 # one word for each package
  { timeout 60 apt-get update && timeout 240 apt-get install -y --no-install-recommends $PACKAGES; } > /dev/null 2>&1 \
    || fail "missing:$(missing); apt-get cannot install it"
}

check() {
  [ -z "$(missing)" ] || fail "missing:$(missing); as root: apt-get install $PACKAGES"
  [ "$(id -u)" = 0 ] || fail "SLURM's daemons need root to start jobs here, and this is $(id -un)"
  [ "${#DIR}" -le 80 ] || fail "$DIR: too long a path for a socket in it; choose one of at most 80 characters"
}

# Ports outside the range that the system gives away by itself; drawn at random, so that two clusters rarely meet.
free_ports() {
  python3 - "$1" << 'PYTHON'
import random, socket, sys
found = []
while len(found) < int(sys.argv[1]):
    port = random.randrange(15000, 32000)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    if port not in found:
        found.append(port)
print(*found)
PYTHON
}

write_conf() {
  local controller node_ports host
  read -r controller node_ports <<< "$(free_ports 3)"
  host=$(hostname -s)
  cat > "$DIR/slurm.conf" << CONF
ClusterName=expkit
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job may start again once the credential of its last start has expired: 2 minutes, if nothing is said.
AuthInfo=socket=$DIR/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool.%n
SlurmctldPidFile=$DIR/slurmctld.own.pid
SlurmdPidFile=$DIR/slurmd.%n.own.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
# Seconds from TERM to KILL, when a job is requeued, cancelled or over its limit.
KillWait=${KILL_WAIT:-15}
# Seconds after which a node that says nothing is down, and what ran there is requeued.
SlurmdTimeout=5
# A job in partition high preempts those in low: they are sent TERM, and requeued after GraceTime.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$node_ports] CPUs=8 RealMemory=64000
PartitionName=main Nodes=n[1-2] Default=YES PriorityTier=5 PreemptMode=OFF MaxTime=1-0 DefaultTime=10
PartitionName=low Nodes=n[1-2] PriorityTier=1 GraceTime=15 MaxTime=1-0 DefaultTime=10
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=1-0 DefaultTime=10
CONF
  sed -i "s/Port=\[\(.*\) \(.*\)\]/Port=[\1,\2]/" "$DIR/slurm.conf"
}

# Start a daemon in the foreground of a session of its own; its number is known at once.
daemon() {
  local name=$1
  shift
  setsid "$@" < /dev/null >> "$DIR/$name.out" 2>&1 &
  echo $! > "$DIR/$name.pid"
}

# Whether a daemon runs. Its number alone says little: another process may have it after a restart of the machine, and
# nobody may have asked how it ended. (The file may be called slurmctld-wlm.)
alive() { [ -f "$DIR/$1.pid" ] && [[ "$(readlink "/proc/$(cat "$DIR/$1.pid")/exe" 2> /dev/null)" = */"${1%.*}"* ]]; }

kill_daemon() {
  if alive "$1"; then kill -KILL "$(cat "$DIR/$1.pid")" || true; fi
  rm -f "$DIR/$1.pid"
}

# wait_for SECONDS COMMAND...
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

start_node() { daemon "slurmd.$1" slurmd -D -N "$1" -f "$DIR/slurm.conf"; }

all_idle() { [ "$(sinfo -h -N -p main -o '%N %t' | grep -c ' idle$')" = 2 ]; }

start() {
  check
  mkdir -p "$DIR/state"
  ! alive slurmctld || fail "there is a cluster in $DIR already; stop it first"
  head -c 1024 /dev/urandom > "$DIR/munge.key"
  chmod 600 "$DIR/munge.key"
  for attempt in 1 2 3; do # another process may take a port before the daemon does
    write_conf
    daemon munged munged -F -f --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" \
      --pid-file="$DIR/munged.own.pid" --log-file="$DIR/munged.log" --seed-file="$DIR/munge.seed"
    wait_for 10 test -S "$DIR/munge.socket" || { stop; fail "munged does not start: $(tail -n 1 "$DIR/munged.out")"; }
    daemon slurmctld slurmctld -c -D -f "$DIR/slurm.conf"
    for node in $NODES; do start_node "$node"; done
    if wait_for 30 all_idle; then
      show_env
      return
    fi
    stop
  done
  fail "SLURM does not start: $(grep -h -E 'error|fatal' "$DIR"/slurm*.log | tail -n 1); more in $DIR"
}

show_env() {
  [ -f "$DIR/slurm.conf" ] || fail "there is no cluster in $DIR: start one with cluster.sh start $DIR"
  printf 'export SLURM_CONF=%q\n' "$DIR/slurm.conf"
}

# Kill processes and all that they have started, however deep.
kill_tree() {
  local pid
  for pid in "$@"; do
    kill -STOP "$pid" 2> /dev/null || continue
    # shellcheck disable=SC2046 # one word for each process
    kill_tree $(ps -o pid= --ppid "$pid")
    kill -KILL "$pid" 2> /dev/null || true
  done
}

# The processes of this cluster that watch over jobs, those of one node alone if it is named: known by the log that they
# write, as nothing else of them names the cluster.
step_daemons() {
  local pid
  for pid in $(ps -e -o pid=,comm= | awk '$2 == "slurmstepd" { print $1 }'); do
    if readlink "/proc/$pid"/fd/* 2> /dev/null | grep -q -x "$DIR/slurmd.${1:-.*}.log"; then echo "$pid"; fi
  done
}

lose() {
  case " $NODES " in *" $1 "*) ;; *) fail "$1: the nodes are $NODES" ;; esac
  alive "slurmd.$1" || fail "node $1 is down already"
  kill_daemon "slurmd.$1"
  # shellcheck disable=SC2046 # one word for each process
  kill_tree $(step_daemons "$1")
}

# At once: asked politely, the controller takes up to 10 s to save a state that nobody will read.
stop() {
  local name
  for name in slurmctld slurmd.n1 slurmd.n2; do kill_daemon "$name"; done
  # shellcheck disable=SC2046 # one word for each process
  kill_tree $(step_daemons)
  kill_daemon munged
}

PATH="$PATH:/usr/sbin:/sbin"
[ "$*" != install ] || { install; exit; }
[ $# -ge 2 ] || fail "$USAGE"
DIR=$(realpath -m -- "$2")
export SLURM_CONF=$DIR/slurm.conf PATH
case "$1 $#" in
  "start 2") start ;;
  "env 2") show_env ;;
  "stop 2") stop ;;
  "lose 3") lose "$3" ;;
  "restore 3")
    case " $NODES " in *" $3 "*) ;; *) fail "$3: the nodes are $NODES" ;; esac
    ! alive "slurmd.$3" || fail "node $3 is up"
    start_node "$3"
    ;;
  *) fail "$USAGE" ;;
esac
