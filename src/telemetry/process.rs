//! Metrics of this process, under the names that all of Prometheus's client libraries use. They are read from
//! `/proc` at each scrape; what a system does not have is absent.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The collector of these metrics.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut gauge = |name, help, value: Option<u64>| match value {
            Some(value) => encode(&mut encoder, name, help, &ConstGauge::new(value)),
            None => Ok(()),
        };
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident_bytes())?;
        gauge("process_open_fds", "Number of open file descriptors.", open_descriptors())?;
        let descriptors_max = getrlimit(Resource::Nofile).current;
        gauge("process_max_fds", "Maximum number of open file descriptors.", descriptors_max)?;
        if let Some(cpu) = cpu_time() {
            let cpu = ConstCounter::new(cpu.as_secs_f64());
            encode(&mut encoder, "process_cpu_seconds", "CPU time used, user and system, in seconds.", &cpu)?;
        }
        if let Some(started) = *STARTED {
            let started = ConstGauge::new(started.as_secs_f64());
            let help = "Start time of the process since the Unix epoch, in seconds.";
            encode(&mut encoder, "process_start_time_seconds", help, &started)?;
        }
        Ok(())
    }
}

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> std::fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn resident_bytes() -> Option<u64> {
    resident_bytes_in(&fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_bytes_in(status: &str) -> Option<u64> {
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

fn open_descriptors() -> Option<u64> {
    // One of them is that of the folder being read.
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(listed).ok()?.checked_sub(1)
}

fn cpu_time() -> Option<Duration> {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Some(Duration::new(used.tv_sec.try_into().ok()?, used.tv_nsec.try_into().ok()?))
}

/// When the process started, since the Unix epoch.
static STARTED: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let ticks = start_ticks_in(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let boot = boot_time_in(&fs::read_to_string("/proc/stat").ok()?)?;
    let since_boot_ms = ticks.checked_mul(1_000)?.checked_div(rustix::param::clock_ticks_per_second())?;
    boot.checked_add(Duration::from_millis(since_boot_ms))
});

/// When the process started, in clock ticks since the system booted (`starttime` in proc(5)).
fn start_ticks_in(stat: &str) -> Option<u64> {
    // The name of the program is in parentheses and may contain some.
    let (_, behind_the_name) = stat.rsplit_once(')')?;
    behind_the_name.split_whitespace().nth(19)?.parse().ok()
}

fn boot_time_in(stat: &str) -> Option<Duration> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_understood() {
        let status = "Name:\tunionlink\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes_in(status), Some(10_240 * 1_024));
        assert_eq!(resident_bytes_in("Name:\tkthreadd\n"), None);
        let stat = "4711 (a) b (c)) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 4 0 987654 1000 200 0\n";
        assert_eq!(start_ticks_in(stat), Some(987_654));
        let stat = "cpu  1 2 3\nctxt 5\nbtime 1795309323\nprocesses 9\n";
        assert_eq!(boot_time_in(stat), Some(Duration::from_secs(1_795_309_323)));
    }
}
