use proptest::prelude::*;

use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 1];
    frame.extend_from_slice(&length(payload));
    frame.extend_from_slice(payload);
    frame.push(FRAME_END);
    frame
}

fn header(properties: &[u8]) -> Vec<u8> {
    frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], properties].concat())
}

/// Properties that have these headers and nothing else.
fn with_headers(table: &[u8]) -> Vec<u8> {
    [&FLAG_HEADERS.to_be_bytes()[..], &length(table)[..], table].concat()
}

fn deliver(key: &[u8]) -> Vec<u8> {
    let before = [&[0, 60, 0, 60][..], b"\x03tag", &[0; 9], b"\x0boverdue.due"].concat();
    frame(METHOD, &[&before[..], &[u8::try_from(key.len()).unwrap()], key].concat())
}

/// In pieces of this size.
fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut guard, mut out) = (Guard::new(0), Vec::new());
    bytes.chunks(piece).for_each(|piece| guard.pass(piece, &mut out));
    out
}

fn nested(kind: u8, depth: u32) -> Vec<u8> {
    (0..depth).fold(b"V".to_vec(), |inner, _| {
        let name: &[u8] = if kind == b'F' { &[1, b'n'] } else { &[] };
        let content = [name, &inner].concat();
        [&[kind][..], &length(&content)[..], &content].concat()
    })
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn what_can_be_read_goes_through_byte_for_byte_in_whatever_pieces_it_comes() {
    let all_flags = 0xfffc_u16.to_be_bytes();
    let texts = |count: usize| [3, b't', 0xc3, 0xbc].repeat(count);
    let table: &[u8] =
        b"\x01a\x53\x00\x00\x00\x02\xff\xfe\x01bt\x01\x01cI\x00\x00\x00\x01\x01dD\x02\x00\x00\x00\x05\x01eV";
    let properties =
        [&all_flags[..], &texts(2), &length(table), table, &[2, 9], &texts(4), &[0; 8], &texts(4)].concat();
    let body = frame(3, &[7; 5000]);
    let bytes = [deliver("30m.payment".as_bytes()), header(&properties), body, frame(8, &[])].concat();
    for piece in [1, 2, 7, 8, 100, 100_000] {
        assert_eq!(passed(&bytes, piece), bytes, "pieces of {piece}");
    }
}

#[test]
fn properties_that_cannot_be_read_come_through_as_bytes() {
    let not_utf8 = [&0x0400_u16.to_be_bytes()[..], b"\x03\xff\xfe\x01"].concat();
    let name_not_utf8 = with_headers(b"\x02\xff\xfeV");
    let unknown_type = with_headers(b"\x01n\x3f");
    let too_short = with_headers(b"\x01nS\x00\x00\x00\x09x");
    let more_flags = vec![0, 1, 0, 0];
    let left_over = vec![0, 0, 7];
    for properties in [not_utf8, name_not_utf8, unknown_type, too_short, more_flags, left_over] {
        let through = passed(&header(&properties), 5);
        assert!(holds(&through, UNREADABLE_HEADER.as_bytes()) && holds(&through, &properties), "{properties:?}");
        assert_eq!(passed(&through, 5), through, "the library can read it now");
    }
}

#[test]
fn headers_nested_too_deeply_come_through_as_bytes() {
    for kind in [b'F', b'A'] {
        let table = |depth| with_headers(&[b"\x01n".as_slice(), &nested(kind, depth)].concat());
        let fine = header(&table(DEPTH_MAX));
        assert_eq!(passed(&fine, 1000), fine);
        for depth in [DEPTH_MAX + 1, 2_500, 12_000] {
            let through = passed(&header(&table(depth)), 1000);
            assert!(holds(&through, UNREADABLE_HEADER.as_bytes()), "{depth} deep");
            assert!(through.len() <= FRAME_BYTES_MAX);
        }
    }
}

#[test]
fn a_routing_key_that_is_not_utf8_is_shown_escaped_and_kept() {
    let bytes = [deliver(b"30m.\xff\xfe"), header(&[0, 0]), frame(3, b"842317")].concat();
    let through = passed(&bytes, 3);
    assert!(holds(&through, br"30m.\xff\xfe") && holds(&through, UNREADABLE_KEY_HEADER.as_bytes()));
    assert!(holds(&through, b"S\x00\x00\x00\x0630m.\xff\xfe"), "its own bytes are kept");
    assert_eq!(passed(&through, 3), through);
    // The next message of the channel is its own.
    let next = [deliver(b"30m.payment"), header(&[0, 0])].concat();
    assert!(passed(&[bytes, next.clone()].concat(), 11).ends_with(&next));
    assert!(escaped(&[0xff; 255]).len() <= 255);
}

#[test]
fn what_takes_the_place_of_properties_fits_into_the_frame_that_the_broker_allows() {
    let tune = frame(METHOD, &[&[0, 10, 0, 30, 7, 255][..], &8192_u32.to_be_bytes(), &[0, 60]].concat());
    let large = with_headers(&[&b"\x01nF"[..], &length(&[0; 8000]), &[0xff; 8000]].concat());
    let through = passed(&[tune.clone(), header(&large)].concat(), 999);
    assert!(through.len() - tune.len() <= 8192, "{}", through.len());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
        let _ = passed(&bytes, piece);
    }

    #[test]
    fn no_properties_make_it_panic_and_what_comes_out_can_be_read(
        properties in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let through = passed(&header(&properties), 50);
        prop_assert_eq!(passed(&through, 50), through);
    }
}
