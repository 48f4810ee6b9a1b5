// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Tables} from "./Tables.sol";
import {Text} from "./Text.sol";

/// @notice Holds what a signed TCB text says of itself; times in unix seconds.
struct TcbText {
    uint256 issueDate;
    uint256 nextUpdate;
    uint256 evaluation;
    bytes8 platform; // FMSPC and PCE id; zero for an identity of the quoting enclave
}

/// @notice Reads Intel's TCB info (version 3, TDX) and quoting enclave identity (version 2) from the exact bytes that were signed, into tables.
/// @dev The whole text is compared with Intel's template, member by member in Intel's order, so no other reading of it is possible.
///      A module identity whose signer or attributes are not all zero is not in the template: its text is refused, not misread.
library TcbTexts {
    using Tables for Tables.Table;

    uint256 private constant SVN = 0x7b2273766e223a; // {"svn":
    uint256 private constant COMMA = 0x2c;
    uint256 private constant CLOSE = 0x7d;
    uint256 private constant ZERO_SVNS = 0x7b2273766e223a307d2c7b2273766e223a307d2c7b2273766e223a307d2c; // {"svn":0}, three times
    /// @dev The vendor's own module, with attributes that are all compared and all zero: as it stands in TCB info, and in an identity.
    bytes32 private constant MODULE = keccak256(
        ',"tdxModule":{"mrsigner":"000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"},'
    );
    bytes32 private constant IDENTITY = keccak256(
        '","mrsigner":"000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF","tcbLevels":['
    );

    /// @dev The components as the vendor has listed them on every platform since 2023, with each number zero: read for
    ///      6,400 gas a level less than lists of another form, which are read member by member. The first eight and the first three are not always zero.
    bytes32 private constant SGX_FORM = keccak256(
        '{"svn":0,"category":"BIOS","type":"Early Microcode Update"},{"svn":0,"category":"OS/VMM","type":"SGX Late Microcode Update"},'
        '{"svn":0,"category":"OS/VMM","type":"TXT SINIT"},{"svn":0,"category":"BIOS"},{"svn":0,"category":"BIOS"},{"svn":0,"category":"BIOS"},'
        '{"svn":0},{"svn":0,"category":"OS/VMM","type":"SEAMLDR ACM"},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},'
        '{"svn":0}'
    );
    bytes32 private constant TDX_FORM = keccak256(
        '{"svn":0,"category":"OS/VMM","type":"TDX Module"},{"svn":0,"category":"OS/VMM","type":"TDX Module"},'
        '{"svn":0,"category":"OS/VMM","type":"TDX Late Microcode Update"},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},'
        '{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0}'
    );

    /// @notice Reads TCB info. Table: count of modules, each `major, count, (isvsvn, status)*`; count of levels, each 16 SGX components,
    ///         16 TDX components, PCESVN (2 bytes), status.
    function tcbInfo(bytes memory text) internal pure returns (TcbText memory info, bytes memory table) {
        (uint256 p, uint256 end) = Text.bounds(text);
        Tables.Table memory rows = Tables.create();
        p = Text.expect(p, '{"id":"TDX","version":3,', 24);
        p = dates(info, p);
        p = Text.expect(p, '","fmspc":"', 11);
        uint256 fmspc;
        (fmspc, p) = Text.hexadecimal(p, 6);
        p = Text.expect(p, '","pceId":"', 11);
        uint256 pceId;
        (pceId, p) = Text.hexadecimal(p, 2);
        info.platform = bytes8(uint64((fmspc << 16) | pceId));
        p = Text.expect(p, '","tcbType":0,"tcbEvaluationData', 32);
        p = Text.expect(p, 'Number":', 8);
        (info.evaluation, p) = Text.number(p);
        p = Text.expectHash(p, MODULE, 193);
        p = modules(p, end, rows);
        p = Text.expect(p, '"tcbLevels":[', 13);
        p = platformLevels(p, end, rows);
        p = Text.expect(p, "]}", 2);
        require(p == end, Text.UnexpectedText());
        table = rows.finish();
    }

    /// @notice Reads the identity of the TD quoting enclave. Table: MISCSELECT and mask (4 bytes each, little-endian), ATTRIBUTES and mask
    ///         (16 each), MRSIGNER (32), ISVPRODID (2), count of levels, each ISVSVN (2 bytes), status.
    function qeIdentity(bytes memory text) internal pure returns (TcbText memory info, bytes memory table) {
        (uint256 p, uint256 end) = Text.bounds(text);
        Tables.Table memory rows = Tables.create();
        p = Text.expect(p, '{"id":"TD_QE","version":2,', 26);
        p = dates(info, p);
        p = Text.expect(p, '","tcbEvaluationDataNumber":', 28);
        (info.evaluation, p) = Text.number(p);
        uint256 value;
        (value, p) = Text.hexadecimal(Text.expect(p, ',"miscselect":"', 15), 4);
        rows.append(littleEndian(value), 4);
        (value, p) = Text.hexadecimal(Text.expect(p, '","miscselectMask":"', 20), 4);
        rows.append(littleEndian(value), 4);
        (value, p) = Text.hexadecimal(Text.expect(p, '","attributes":"', 16), 16);
        rows.append(value, 16);
        (value, p) = Text.hexadecimal(Text.expect(p, '","attributesMask":"', 20), 16);
        rows.append(value, 16);
        (value, p) = Text.hexadecimal(Text.expect(p, '","mrsigner":"', 14), 32);
        rows.append(value, 32);
        (value, p) = Text.number(Text.expect(p, '","isvprodid":', 14));
        rows.append(value, 2);
        p = versionLevels(Text.expect(p, ',"tcbLevels":[', 14), end, rows, 2);
        require(Text.expect(p, "]}", 2) == end, Text.UnexpectedText());
        table = rows.finish();
    }

    function dates(TcbText memory info, uint256 p) private pure returns (uint256) {
        (info.issueDate, p) = Text.time(Text.expect(p, '"issueDate":"', 13));
        (info.nextUpdate, p) = Text.time(Text.expect(p, '","nextUpdate":"', 16));
        return p;
    }

    /// @dev TCB info from before TDX 1.5 has no identities of modules.
    function modules(uint256 p, uint256 end, Tables.Table memory rows) private pure returns (uint256) {
        uint256 place = rows.size;
        uint256 count;
        rows.append(0, 1);
        if (!Text.has(p, '"tdxModuleIdentities":[', 23)) return p;
        p += 23;
        while (true) {
            uint256 major;
            (major, p) = Text.hexadecimal(Text.expect(p, '{"id":"TDX_', 11), 1);
            rows.append(major, 1);
            p = versionLevels(Text.expectHash(p, IDENTITY, 193), end, rows, 1);
            p = Text.expect(p, "]}", 2);
            count++;
            if (!Text.has(p, ",", 1)) break;
            p++;
        }
        rows.setByte(place, count);
        return Text.expect(p, "],", 2);
    }

    /// @dev Levels by one version number, which takes `size` bytes in the table.
    function versionLevels(uint256 p, uint256 end, Tables.Table memory rows, uint256 size) private pure returns (uint256) {
        uint256 place = rows.size;
        uint256 count;
        rows.append(0, 1);
        while (true) {
            uint256 svn;
            (svn, p) = Text.number(Text.expect(p, '{"tcb":{"isvsvn":', 17));
            require(svn >> (8 * size) == 0, Text.UnexpectedText());
            rows.append(svn, size);
            p = levelEnd(p, end, rows);
            count++;
            if (!Text.has(p, ",", 1)) break;
            p++;
        }
        rows.setByte(place, count);
        return p;
    }

    function platformLevels(uint256 p, uint256 end, Tables.Table memory rows) private pure returns (uint256) {
        uint256 place = rows.size;
        uint256 count;
        rows.append(0, 1);
        while (true) {
            p = Text.expect(p, '{"tcb":{"sgxtcbcomponents":[', 28);
            (bool known, uint256 svns) = Text.digits(p, 398, SGX_FORM, hex"073c41311c1c1c0a");
            if (known) p += 398;
            else (svns, p) = components(p, end);
            rows.append(known ? svns << 64 : svns, 16);
            uint256 pceSvn;
            (pceSvn, p) = Text.number(Text.expect(p, '],"pcesvn":', 11));
            p = Text.expect(p, ',"tdxtcbcomponents":[', 21);
            (known, svns) = Text.digits(p, 294, TDX_FORM, hex"073232");
            if (known) p += 294;
            else (svns, p) = components(p, end);
            rows.append(known ? svns << 104 : svns, 16);
            rows.append(pceSvn, 2);
            p = levelEnd(Text.expect(p, "]", 1), end, rows);
            count++;
            if (!Text.has(p, ",", 1)) break;
            p++;
        }
        rows.setByte(place, count);
        return p;
    }

    /// @dev Sixteen of them. A category and a type may follow each number; they mean nothing to the comparison.
    function components(uint256 p, uint256 end) private pure returns (uint256 all, uint256 next) {
        unchecked {
            uint256 i;
            while (true) {
                // One word holds `{"svn":`, up to three digits and what follows them, or three zeros in a row.
                uint256 text = Text.word(p);
                // Where three are too many, the count has passed sixteen and never ends.
                if (text >> 16 == ZERO_SVNS) {
                    p += 30;
                    i += 3;
                    all <<= 24;
                    continue;
                }
                uint256 svn = ((text >> 192) & 0xff) - 48;
                uint256 after_ = (text >> 184) & 0xff;
                require(text >> 200 == SVN && svn < 10, Text.UnexpectedText());
                p += 8;
                if (after_ == COMMA) {
                    p = Text.find(p + 1, end, CLOSE);
                } else if (after_ != CLOSE) {
                    (svn, p) = Text.number(p - 1);
                    require(svn < 256, Text.UnexpectedText());
                    if (!Text.has(p, "}", 1)) p = Text.find(Text.expect(p, ",", 1), end, CLOSE);
                }
                all = (all << 8) | svn;
                if (++i == 16) break;
                require((Text.word(p) >> 240) & 0xff == COMMA, Text.UnexpectedText());
                p += 2;
            }
            next = p + 1;
        }
    }

    function levelEnd(uint256 p, uint256 end, Tables.Table memory rows) private pure returns (uint256) {
        unchecked {
            // The date of a level plays no part in the comparison.
            p = Text.expect(p, '},"tcbDate":"', 13) + 20;
            uint256 value;
            (value, p) = status(Text.expect(p, '","tcbStatus":"', 15));
            rows.append(value, 1);
            if (Text.has(p, ',"advisoryIDs":[', 16)) p = Text.find(p + 16, end, 0x5d) + 1;
            return Text.expect(p, "}", 1);
        }
    }

    /// @dev Numbers the statuses best first, as the rules of the policy do.
    function status(uint256 p) private pure returns (uint256 value, uint256 next) {
        if (Text.has(p, 'UpToDate"', 9)) return (0, p + 9);
        if (Text.has(p, 'SWHardeningNeeded"', 18)) return (1, p + 18);
        if (Text.has(p, 'ConfigurationNeeded"', 20)) return (2, p + 20);
        if (Text.has(p, 'OutOfDate"', 10)) return (4, p + 10);
        if (Text.has(p, 'OutOfDateConfigurationNeeded"', 29)) return (5, p + 29);
        if (Text.has(p, 'Revoked"', 8)) return (6, p + 8);
        next = Text.expect(p, "ConfigurationAndSWHardeningNeede", 32);
        return (3, Text.expect(next, 'd"', 2));
    }

    function littleEndian(uint256 value) private pure returns (uint256) {
        return ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >> 8) & 0xff00) | (value >> 24);
    }
}
