# SPDX-License-Identifier: Apache-2.0
# What tidegate-vm-command.service does.
seconds=$(sed -n 's/.*vm\.timeout=\([0-9]*\).*/\1/p' /proc/cmdline)
status=0
timeout -k 2 "${seconds:-0}" /bin/sh /run/vm/command || status=$?
if [ $status = 124 ]; then
    echo w >/proc/sysrq-trigger
    systemctl list-jobs >/dev/kmsg
fi
echo $status >/run/vm/status
sync
