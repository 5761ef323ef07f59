//! What a Pod's network has carried, and what a container holds of files and processes.

use super::{Who, Writer};
use crate::measure::{
    exposition::{COUNTER, GAUGE},
    gather::{ContainerSeen, Counted, Seen},
    network::Interface,
};

impl Writer {
    pub(super) fn interfaces(&mut self, who: &Who<'_>, interfaces: &[Interface], c: &Counted) {
        let labels = who.labels();
        let at = Some(c.at.as_millisecond());
        for i in interfaces {
            let one = [("interface", i.name.as_str())];
            for (name, value) in [
                (
                    (
                        "container_network_receive_bytes_total",
                        COUNTER,
                        "Cumulative count of bytes received",
                    ),
                    i.received.bytes,
                ),
                (
                    (
                        "container_network_receive_packets_total",
                        COUNTER,
                        "Cumulative count of packets received",
                    ),
                    i.received.packets,
                ),
                (
                    (
                        "container_network_receive_packets_dropped_total",
                        COUNTER,
                        "Cumulative count of packets dropped while receiving",
                    ),
                    i.received.dropped,
                ),
                (
                    (
                        "container_network_receive_errors_total",
                        COUNTER,
                        "Cumulative count of errors encountered while receiving",
                    ),
                    i.received.errors,
                ),
                (
                    (
                        "container_network_transmit_bytes_total",
                        COUNTER,
                        "Cumulative count of bytes transmitted",
                    ),
                    i.sent.bytes,
                ),
                (
                    (
                        "container_network_transmit_packets_total",
                        COUNTER,
                        "Cumulative count of packets transmitted",
                    ),
                    i.sent.packets,
                ),
                (
                    (
                        "container_network_transmit_packets_dropped_total",
                        COUNTER,
                        "Cumulative count of packets dropped while transmitting",
                    ),
                    i.sent.dropped,
                ),
                (
                    (
                        "container_network_transmit_errors_total",
                        COUNTER,
                        "Cumulative count of errors encountered while transmitting",
                    ),
                    i.sent.errors,
                ),
            ] {
                self.all.add(name, &[&labels, &one], value as f64, at);
            }
        }
    }

    /// Files and processes of a container.
    pub(super) fn held(&mut self, seen: &Seen, who: &Who<'_>, c: &ContainerSeen) {
        let labels = who.labels();
        let at = Some(c.counted.at.as_millisecond());
        if let (Some(room), Some(taken)) = (&seen.images, &c.root) {
            let one = [("device", "")];
            for (name, value) in [
                (
                    (
                        "container_fs_inodes_free",
                        GAUGE,
                        "Number of available Inodes",
                    ),
                    room.inodes_free,
                ),
                (
                    ("container_fs_inodes_total", GAUGE, "Number of Inodes"),
                    room.inodes,
                ),
                (
                    (
                        "container_fs_limit_bytes",
                        GAUGE,
                        "Number of bytes that can be consumed by the container on this filesystem.",
                    ),
                    room.capacity_bytes,
                ),
                (
                    (
                        "container_fs_usage_bytes",
                        GAUGE,
                        "Number of bytes that are consumed by the container on this filesystem.",
                    ),
                    taken.bytes,
                ),
            ] {
                self.all.add(name, &[&labels, &one], value as f64, at);
            }
        }
        let p = &c.processes;
        for (name, value) in [
            (
                (
                    "container_processes",
                    GAUGE,
                    "Number of processes running inside the container.",
                ),
                p.count,
            ),
            (
                (
                    "container_file_descriptors",
                    GAUGE,
                    "Number of open file descriptors for the container.",
                ),
                p.files,
            ),
            (
                (
                    "container_sockets",
                    GAUGE,
                    "Number of open sockets for the container.",
                ),
                p.sockets,
            ),
            (
                (
                    "container_threads",
                    GAUGE,
                    "Number of threads running inside the container",
                ),
                p.threads,
            ),
            (
                (
                    "container_threads_max",
                    GAUGE,
                    "Maximum number of threads allowed inside the container, infinity if value is zero",
                ),
                c.counted.usage.pids.limit.unwrap_or(0),
            ),
        ] {
            self.all.add(name, &[&labels], value as f64, at);
        }
        let name = (
            "container_ulimits_soft",
            GAUGE,
            "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
        );
        for (which, value) in &p.limits {
            let value = value.map_or(-1.0, |v| v as f64);
            self.all
                .add(name, &[&labels, &[("ulimit", which)]], value, at);
        }
    }
}
