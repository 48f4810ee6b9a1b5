// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Writes out a text that was packed: steps that each copy bytes from the call and then repeat bytes written before.
/// @dev A step is `literal (5 bits), size (11), source (16)`, then its literal bytes; `source` counts from the first byte of `WORDS`, which
///      stand before the text, and a repeated run lies whole before what it writes. Whoever packs is not trusted: a signature covers what is
///      written, so what matters is only that every step stays inside. The assembly pays for itself: a real TCB info of 4,113 bytes is sent
///      as 110 bytes in 14 steps of about 200 gas, where its own cost 65,800 gas in a call and 164,500 by the floor of EIP-7623.
library PackedText {
    error PackedTextMalformed();

    /// @dev What nearly all texts share: the fixed words of an identity, and a TCB info of 2026 with its first level and its oldest.
    bytes private constant WORDS =
        '{"id":"TD_QE","version":2,"issueDate":"2026-","tcbEvaluationDataNumber":18,"miscselect":"00000000","miscselectMask":"FFF'
        'FFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"D'
        'C9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5","isvprodid":2,"tcbLevels":[{"id":"TDX","version":3,"iss'
        'ueDate":"2026-Z","nextUpdate":"2026-Z","fmspc":"90c06f000000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":18,"t'
        'dxModule":{"mrsigner":"000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"'
        ',"attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"},"tdxModuleIdentities":[{"id":"TDX_03","mrsigner":"'
        '000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000","attributes":"00000000'
        '00000000","attributesMask":"FFFFFFFFFFFFFFFF","tcbLevels":[{"tcb":{"isvsvn":3},"tcbDate":"2024-11-13T00:00:00Z","tcbStat'
        'us":"UpToDate"}]},{"id":"TDX_01","mrsigner":"000000000000000000000000000000000000000000000000000000000000000000000000000'
        '000000000000000000000","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF","tcbLevels":[{"tcb":{"isvsvn"'
        ':6},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"UpToDate"},{"tcb":{"isvsvn":4},"tcbDate":"2024-03-13T00:00:00Z","tcbSt'
        'atus":"OutOfDate","advisoryIDs":["INTEL-SA-01036","INTEL-SA-01099"]},{"tcb":{"isvsvn":2},"tcbDate":"2023-08-09T00:00:00Z'
        '","tcbStatus":"OutOfDate","advisoryIDs":["INTEL-SA-01036","INTEL-SA-01099"]}]}],"tcbLevels":[{"tcb":{"sgxtcbcomponents":'
        '[{"svn":3,"category":"BIOS","type":"Early Microcode Update"},{"svn":3,"category":"OS/VMM","type":"SGX Late Microcode Upd'
        'ate"},{"svn":2,"category":"OS/VMM","type":"TXT SINIT"},{"svn":2,"category":"BIOS"},{"svn":4,"category":"BIOS"},{"svn":1,'
        '"category":"BIOS"},{"svn":0},{"svn":5,"category":"OS/VMM","type":"SEAMLDR ACM"},{"svn":0},{"svn":0},{"svn":0},{"svn":0},'
        '{"svn":0},{"svn":0},{"svn":0},{"svn":0}],"pcesvn":13,"tdxtcbcomponents":[{"svn":5,"category":"OS/VMM","type":"TDX Module'
        '"},{"svn":0,"category":"OS/VMM","type":"TDX Module"},{"svn":3,"category":"OS/VMM","type":"TDX Late Microcode Update"},{"'
        'svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"'
        'svn":0}]},"tcbDate":"2024-11-13T00:00:00Z","tcbStatus":"OutOfDate","advisoryIDs":["INTEL-SA-00106","INTEL-SA-00115","INT'
        'EL-SA-00135","INTEL-SA-00203","INTEL-SA-00220","INTEL-SA-00233","INTEL-SA-00270","INTEL-SA-00293","INTEL-SA-00320","INTE'
        'L-SA-00329","INTEL-SA-00381","INTEL-SA-00389","INTEL-SA-00477","INTEL-SA-00837","INTEL-SA-01036","INTEL-SA-01079","INTEL'
        '-SA-01099","INTEL-SA-01103","INTEL-SA-01111"]}]}';

    /// @notice Writes a text to memory. Refuses a run that is not written yet and a step cut short.
    function unpack(bytes calldata packed) internal pure returns (bytes memory text) {
        bytes memory words = WORDS;
        bool malformed;
        assembly ("memory-safe") {
            let base := add(words, 0x20)
            let start := add(base, mload(words))
            let end := start
            let from := packed.offset
            let last := add(from, packed.length)
            for {} lt(from, last) {} {
                let step := calldataload(from)
                let size := shr(251, step)
                from := add(from, 4)
                calldatacopy(end, from, size)
                from := add(from, size)
                end := add(end, size)
                size := and(shr(240, step), 0x7ff)
                let source := add(base, and(shr(224, step), 0xffff))
                malformed := or(malformed, gt(add(source, size), end))
                mcopy(end, source, size)
                end := add(end, size)
            }
            malformed := or(malformed, iszero(eq(from, last)))
            // The words have done their part, and the last of them gives way to the text's length.
            text := sub(start, 0x20)
            mstore(text, sub(end, start))
            // A reader may look a word past the end.
            mstore(0x40, and(add(end, 0x3f), not(0x1f)))
        }
        require(!malformed, PackedTextMalformed());
    }
}
