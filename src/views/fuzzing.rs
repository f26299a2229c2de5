//! What is read of a container's requests.

use super::View;
use super::files::{Files, Outcome};

/// What the files hold here.
const TEXT: usize = 3000;

/// Bytes as a list of requests, each with its length before it, to one file system. How many were answered, with nothing,
/// and were none.
pub(crate) fn requests(bytes: &[u8]) -> [usize; 3] {
    let (mut files, mut reply, mut counts) = (Files::default(), Vec::new(), [0; 3]);
    let mut rest = bytes;
    // The length is part of the request, too.
    while let Some(length) = rest.first_chunk::<4>() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        let length = length.clamp(4, rest.len());
        let request;
        (request, rest) = rest.split_at(length);
        reply.clear();
        let outcome = files.answer(request, &mut reply, |_: View| Ok(vec![b'x'; TEXT]));
        counts[outcome as usize] += 1;
        if outcome == Outcome::Answer {
            let said = reply.get(..4).and_then(|n| n.try_into().ok()).map(u32::from_ne_bytes);
            assert_eq!(said, u32::try_from(reply.len()).ok(), "an answer says how long it is");
            assert!(reply.len() <= 16 + TEXT.max(128), "nothing is longer than what there is");
            assert_eq!(reply.get(8..16), request.get(8..16), "it is the answer to this request");
        }
        let asked = request.get(4..8).and_then(|n| n.try_into().ok()).map(u32::from_ne_bytes);
        if asked == Some(15) && outcome == Outcome::Answer {
            let most = request.get(56..60).and_then(|n| n.try_into().ok()).map_or(0, u32::from_ne_bytes);
            assert!(reply.len() - 16 <= most as usize, "no read gives more than it asks for");
        }
    }
    counts
}
