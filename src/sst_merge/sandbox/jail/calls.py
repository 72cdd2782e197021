"""System calls by name: what a function on plain data may need, and what is refused by its name.

Numbers on x86_64 and aarch64; None where the processor has no such call. A call on neither list does not exist for the
program (ENOSYS), whatever the kernel learns in years to come; the C library then takes the older call that it replaces.
"""

__all__ = ["ALLOWED", "REFUSED", "Numbers"]

Numbers = tuple[int | None, int | None]


def _table(lines: str) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {}
    for words in (entry.split() for entry in lines.replace("\n", ",").split(",") if entry.strip()):
        name, here, there = words
        found[name] = (None if here == "-" else int(here), None if there == "-" else int(there))
    return found


ALLOWED = _table("""
    read 0 63, write 1 64, close 3 57, mmap 9 222, munmap 11 215, mprotect 10 226, brk 12 214, mremap 25 216
    futex 202 98, madvise 28 233, msync 26 227, mincore 27 232, membarrier 324 283, rseq 334 293
    restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136
    rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, kill 62 129, tkill 200 130, tgkill 234 131
    pause 34 -, alarm 37 -, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95, sched_yield 24 124
    set_tid_address 218 96, set_robust_list 273 99, get_robust_list 274 100, arch_prctl 158 -, prctl 157 167
    getcpu 309 168, open 2 -, openat 257 56, openat2 437 437, creat 85 -, stat 4 -, fstat 5 80, lstat 6 -
    newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, lseek 8 62, pread64 17 67
    pwrite64 18 68, readv 19 65, writev 20 66, preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287
    getdents 78 -, getdents64 217 61, sendfile 40 71, copy_file_range 326 285, readahead 187 213, fadvise64 221 223
    fallocate 285 47, flock 73 32, fsync 74 82, fdatasync 75 83, truncate 76 45, ftruncate 77 46, getcwd 79 17
    chdir 80 49, fchdir 81 50, umask 95 166, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -
    mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37, unlink 87 -, unlinkat 263 35, symlink 88 -
    symlinkat 266 36, readlink 89 -, readlinkat 267 78, chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452
    utime 132 -, utimes 235 -, utimensat 280 88, statfs 137 43, fstatfs 138 44, getxattr 191 8, lgetxattr 192 9
    fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13, dup 32 23, dup2 33 -, dup3 292 24
    pipe 22 -, pipe2 293 59, fcntl 72 25, ioctl 16 29, close_range 436 436, poll 7 -, ppoll 271 73, select 23 -
    pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -
    epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, timerfd_create 283 85
    timerfd_settime 286 86, timerfd_gettime 287 87, timer_create 222 107, timer_settime 223 110
    timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111, getitimer 36 102, setitimer 38 103
    nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169
    time 201 -, times 100 153, getrandom 318 278, uname 63 160, sysinfo 99 179, getrusage 98 165, getrlimit 97 163
    setrlimit 160 164, prlimit64 302 261, getpid 39 172, getppid 110 173, gettid 186 178, getpgrp 111 -
    getpgid 121 155, setpgid 109 154, getsid 124 156, setsid 112 157, getuid 102 174, geteuid 107 175
    getgid 104 176, getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150, getpriority 140 141
    setpriority 141 140, sched_getaffinity 204 123, sched_setaffinity 203 122, sched_getparam 143 121
    sched_getscheduler 145 120, sched_get_priority_max 146 125, sched_get_priority_min 147 126, connect 42 203
    accept 43 202, accept4 288 242, bind 49 200, listen 50 201, shutdown 48 210, sendto 44 206, recvfrom 45 207
    sendmsg 46 211, recvmsg 47 212, getsockname 51 204, getpeername 52 205, setsockopt 54 208, getsockopt 55 209
""")
"""Files in what the jail shows, memory, threads, signals among its own processes, clocks, local sockets."""

REFUSED = _table("""
    mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, open_tree 428 428, move_mount 429 429
    fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, unshare 272 97
    setns 308 268, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440
    pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424, kcmp 312 272, name_to_handle_at 303 264
    open_by_handle_at 304 265, execve 59 221, execveat 322 281, memfd_create 319 279, memfd_secret 447 447
    shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180, mknod 133 -, mknodat 259 33, chown 92 -
    fchown 93 55, lchown 94 -, fchownat 260 54, setxattr 188 5, setuid 105 146, setgid 106 144, setreuid 113 145
    setregid 114 143, setresuid 117 147, setresgid 119 149, setgroups 116 159, setfsuid 122 151, setfsgid 123 152
    capget 125 90, capset 126 91, seccomp 317 277, bpf 321 280, perf_event_open 298 241, userfaultfd 323 282
    io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427, keyctl 250 219, add_key 248 217
    request_key 249 218, fanotify_init 300 262, init_module 175 105, finit_module 313 273, delete_module 176 106
    kexec_load 246 104, kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89
    quotactl 179 60, quotactl_fd 443 443, syslog 103 116, personality 135 92, settimeofday 164 170
    clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266, sethostname 170 161, setdomainname 171 162
    vhangup 153 58, iopl 172 -, ioperm 173 -, modify_ldt 154 -
""")
"""What programs try and expect to be told of: these fail with EPERM, as they would for somebody without the right."""
