//! A serial port, the 16550A of a PC: the guest's first console.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BusDevice, ConsoleRing};
use crate::sys::vm::event::Event;

/// Registers, by offset. The first two are others while [`LCR_DLAB`] is set.
const DATA: u64 = 0;
const IER: u64 = 1;
const IIR_FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const IER_RECEIVED: u8 = 1;
const IER_EMPTY: u8 = 2;
const IIR_NONE: u8 = 1;
const IIR_EMPTY: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_FIFO: u8 = 0xc0;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVED: u8 = 2;
const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;
const LSR_READY: u8 = 1;
const LSR_EMPTY: u8 = 0x60;
/// Clear to send, data set ready, carrier: somebody is at the other end.
const MSR_CONNECTED: u8 = 0xb0;

/// Bytes for the guest that it has not read. A host that writes more is told.
const INPUT: usize = 64 << 10;
/// What a guest in loopback mode can send to itself: a real FIFO's size.
const LOOPBACK: usize = 16;

/// What is sent goes to the console's ring at once, so the transmitter is always empty.
pub(in crate::vm) struct Serial {
    state: Mutex<State>,
    output: Arc<ConsoleRing>,
    interrupt: Event,
}

#[derive(Debug, Default)]
struct State {
    divisor: [u8; 2],
    interrupts: u8,
    fifo: u8,
    line: u8,
    modem: u8,
    scratch: u8,
    received: VecDeque<u8>,
    /// The transmitter got empty and the guest has not been told yet.
    sent: bool,
}

impl State {
    /// The most urgent reason for an interrupt.
    fn pending(&self) -> u8 {
        if self.interrupts & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_RECEIVED
        } else if self.interrupts & IER_EMPTY != 0 && self.sent {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn divisor_latch(&self) -> bool {
        self.line & LCR_DLAB != 0
    }
}

impl Serial {
    pub(in crate::vm) const LEN: u64 = 8;

    /// `interrupt` raises the port's interrupt line for a moment.
    pub(in crate::vm) fn new(output: Arc<ConsoleRing>, interrupt: Event) -> Self {
        Self { state: Mutex::default(), output, interrupt }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to the guest; says how many bytes it has room for.
    pub(in crate::vm) fn input(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let taken = bytes.len().min(INPUT.saturating_sub(state.received.len()));
        state.received.extend(&bytes[..taken]);
        self.tell(&state);
        taken
    }

    /// Raises the interrupt if there is a reason.
    fn tell(&self, state: &State) {
        if state.pending() != IIR_NONE {
            self.interrupt.signal();
        }
    }

    fn read_register(&self, register: u64) -> u8 {
        let mut state = self.state();
        match register {
            DATA if state.divisor_latch() => state.divisor[0],
            IER if state.divisor_latch() => state.divisor[1],
            DATA => {
                let byte = state.received.pop_front().unwrap_or(0);
                // An edge for the next byte, for guests that read one at each.
                self.tell(&state);
                byte
            }
            IER => state.interrupts,
            IIR_FCR => {
                let pending = state.pending();
                if pending == IIR_EMPTY {
                    state.sent = false;
                }
                pending | if state.fifo & FCR_ENABLE != 0 { IIR_FIFO } else { 0 }
            }
            LCR => state.line,
            MCR => state.modem,
            LSR => LSR_EMPTY | if state.received.is_empty() { 0 } else { LSR_READY },
            MSR if state.modem & MCR_LOOP != 0 => {
                // The outputs are the inputs: DTR is DSR, RTS is CTS, OUT1 is RI, OUT2 is carrier.
                let out = state.modem;
                (out & 1) << 5 | (out & 2) << 3 | (out & 4) << 4 | (out & 8) << 4
            }
            MSR => MSR_CONNECTED,
            SCR => state.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&self, register: u64, value: u8) {
        let mut state = self.state();
        match register {
            DATA if state.divisor_latch() => state.divisor[0] = value,
            IER if state.divisor_latch() => state.divisor[1] = value,
            DATA => {
                if state.modem & MCR_LOOP == 0 {
                    self.output.write(&[value]);
                } else if state.received.len() < LOOPBACK {
                    state.received.push_back(value);
                }
                state.sent = true;
                self.tell(&state);
            }
            IER => {
                let asked_now = value & !state.interrupts;
                state.interrupts = value & 0xf;
                // The transmitter is empty: who asks to be told so is told.
                if asked_now & IER_EMPTY != 0 {
                    state.sent = true;
                }
                self.tell(&state);
            }
            IIR_FCR => {
                state.fifo = value & FCR_ENABLE;
                if value & FCR_CLEAR_RECEIVED != 0 {
                    state.received.clear();
                }
            }
            LCR => state.line = value,
            MCR => state.modem = value & 0x1f,
            SCR => state.scratch = value,
            _ => {}
        }
    }
}

impl BusDevice for Serial {
    fn name(&self) -> &'static str {
        "serial port"
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // The registers are bytes: a wider access is none of this device.
        if let [byte] = data {
            *byte = self.read_register(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            self.write_register(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port() -> (Serial, Arc<ConsoleRing>) {
        let ring = Arc::new(ConsoleRing::new(1 << 10));
        (Serial::new(Arc::clone(&ring), Event::new().unwrap()), ring)
    }

    fn get(port: &Serial, register: u64) -> u8 {
        let mut data = [0xff];
        port.read(register, &mut data);
        data[0]
    }

    #[test]
    fn bytes_go_out_and_the_empty_transmitter_is_told_once() {
        let (port, ring) = port();
        port.write(DATA, b"a");
        assert!(!port.interrupt.take(), "nobody asked");
        port.write(IER, &[IER_EMPTY]);
        assert!(port.interrupt.take());
        assert_eq!((get(&port, IIR_FCR), get(&port, IIR_FCR)), (IIR_EMPTY, IIR_NONE));
        port.write(DATA, b"b");
        assert!(port.interrupt.take());
        assert_eq!((ring.since(0).text(), get(&port, LSR)), ("ab".to_owned(), LSR_EMPTY));
    }

    #[test]
    fn bytes_come_in_up_to_a_bound() {
        let (port, _) = port();
        port.write(IER, &[IER_RECEIVED]);
        assert_eq!(port.input(b"xy"), 2);
        assert!(port.interrupt.take());
        assert_eq!((get(&port, IIR_FCR), get(&port, LSR)), (IIR_RECEIVED, LSR_EMPTY | LSR_READY));
        assert_eq!((get(&port, DATA), get(&port, DATA), get(&port, LSR)), (b'x', b'y', LSR_EMPTY));
        assert_eq!(port.input(&vec![0; INPUT + 5]), INPUT);
        assert_eq!(port.input(b"z"), 0);
        port.write(IIR_FCR, &[FCR_ENABLE | FCR_CLEAR_RECEIVED]);
        assert_eq!((get(&port, IIR_FCR), port.input(b"z")), (IIR_FIFO | IIR_NONE, 1));
    }

    #[test]
    fn a_driver_finds_what_it_probes_for() {
        let (port, ring) = port();
        port.write(LCR, &[LCR_DLAB]);
        port.write(DATA, &[1]);
        port.write(IER, &[2]);
        assert_eq!((get(&port, DATA), get(&port, IER)), (1, 2));
        port.write(LCR, &[3]);
        port.write(SCR, &[0x5a]);
        assert_eq!(get(&port, SCR), 0x5a);
        // Loopback: RTS and OUT2 come back as CTS and carrier.
        port.write(MCR, &[MCR_LOOP | 0x0a]);
        assert_eq!(get(&port, MSR) & 0xf0, 0x90);
        for _ in 0..100 {
            port.write(DATA, b"q");
        }
        assert_eq!((get(&port, DATA), ring.since(0).text()), (b'q', String::new()));
        assert!(port.state().received.len() < LOOPBACK);
    }

    proptest! {
        #[test]
        fn no_access_confuses_it(
            accesses in proptest::collection::vec((any::<bool>(), 0_u64..10, proptest::collection::vec(any::<u8>(), 0..9)), 0..500),
        ) {
            let (port, ring) = port();
            for (write, register, mut data) in accesses {
                if write {
                    port.write(register, &data);
                } else {
                    port.read(register, &mut data);
                }
            }
            prop_assert!(port.state().received.len() <= LOOPBACK);
            prop_assert!(ring.since(0).bytes.len() <= 1 << 10);
        }
    }
}
