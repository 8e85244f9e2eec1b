"""Where the tools put their files: an ext4 of its own on a loop device, made anew for each run, or new directories.

Nothing is deleted before a run: for a minute ext4 keeps away from inodes that were just freed, and looking for others
costs more than the transfer of small files itself. The statistics of the device give every byte and flush that reached it.
"""

import os
import shutil
import subprocess
import time

import rig

STEP_SECONDS_MAX = 120
REST_SECONDS_MAX = 15
# Inodes for the most files that a run makes, twice: under its temporary and its final name.
INODES = 65536
FRESH = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(INODES), "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]


def command(*words):
    environment = dict(os.environ, PATH=rig.SEARCH, LC_ALL="C")
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": STEP_SECONDS_MAX}
    done = subprocess.run(words, env=environment, check=False, **options)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


class LoopDisk:
    """A file system of its own; `counters` says what reached its device."""

    counts = True

    def __init__(self, directory, mib):
        self.image = f"{directory}/disk.img"
        self.path = f"{directory}/disk"
        self.mib = mib
        self.device = None
        self.is_direct = False

    def start(self):
        os.mkdir(self.path)
        # Written once, so that its blocks are there and no run pays for them.
        command("dd", "if=/dev/zero", f"of={self.image}", "bs=1M", f"count={self.mib}", "conv=fsync")
        try:
            self.device = command("losetup", "-f", "--show", "--direct-io=on", self.image)
            self.is_direct = True
        except OSError:
            self.device = command("losetup", "-f", "--show", self.image)
            self.is_direct = False
        # A limit that somebody left on the device would be measured.
        try:
            with open(f"/sys/block/{os.path.basename(self.device)}/queue/max_sectors_kb", "w", encoding="ascii") as limit:
                limit.write("0")
        except OSError:
            pass
        self.fresh()

    def fresh(self):
        self._unmount()
        command(*FRESH, self.device)
        command("mount", self.device, self.path)
        os.chmod(self.path, 0o755)
        return self.path

    def counters(self):
        """Bytes written to the device, and flushes that it completed, since it is there."""
        with open(f"/sys/block/{os.path.basename(self.device)}/stat", encoding="ascii") as stat:
            fields = stat.read().split()
        return int(fields[6]) * 512, int(fields[15]) if len(fields) > 15 else 0

    def settle(self, quiet_seconds=0.2):
        """All of it on the disk, and nothing under way any more."""
        command("sync", "-f", self.path)
        end = time.monotonic() + REST_SECONDS_MAX
        before = self.counters()
        while time.monotonic() < end:
            time.sleep(quiet_seconds)
            now = self.counters()
            if now == before:
                return
            before = now
        rig.say(f"the disk of the tests did not come to rest within {REST_SECONDS_MAX} s")

    def words(self):
        way = "direct" if self.is_direct else "buffered"
        below = rig.first_line("stat", "-f", "-c", "%T", os.path.dirname(self.image))
        return f"ext4 on a loop device of its own ({way}, its image on {below}), made anew for each run"

    def _unmount(self):
        # What is there is asked for, not remembered: an interrupt may come between a step and the note of it.
        for _ in range(20):
            if not os.path.ismount(self.path):
                return
            try:
                command("umount", self.path)
            except OSError:
                time.sleep(0.25)
        command("umount", "-l", self.path)

    def close(self):
        for step in (self._unmount, self._detach):
            try:
                step()
            except (OSError, subprocess.SubprocessError) as error:
                rig.say(f"could not clean up: {error}")
        if os.path.exists(self.image):
            os.remove(self.image)

    def _detach(self):
        for line in command("losetup", "-j", self.image).splitlines():
            command("losetup", "-d", line.split(":", maxsplit=1)[0])


class Folders:
    """New directories on whatever file system there is; what reaches the disk cannot be told."""

    counts = False

    def __init__(self, directory):
        self.directory = directory
        self.number = 0
        self.path = None

    def fresh(self):
        if self.path:
            self._give_room_back()
        self.number += 1
        self.path = f"{self.directory}/disk{self.number}"
        os.mkdir(self.path)
        return self.path

    def _give_room_back(self):
        """The bytes go now, the inodes at the end."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    os.truncate(path, 0)

    def counters(self):
        return 0, 0

    def settle(self, quiet_seconds=0.2):
        del quiet_seconds
        command("sync", "-f", self.path)

    def words(self):
        kind = rig.first_line("stat", "-f", "-c", "%T", self.directory)
        return f"new directories on {kind}; bytes and flushes are left out, which takes root and a loop device"

    def close(self):
        for number in range(1, self.number + 1):
            shutil.rmtree(f"{self.directory}/disk{number}", ignore_errors=True)
