// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Der} from "./Der.sol";

/// @notice Holds what a PCK certificate says of its platform, in one slot; security versions as Intel's SGX extension orders them.
struct Platform {
    bytes16 components;
    uint16 pceSvn;
    bytes2 pceId;
    bytes6 fmspc;
    uint40 notAfter; // unix seconds
    uint8 barred; // bit 0: denied by the policy's owner; bit 1: revoked by the CA
}

/// @notice Reads Intel's extension of PCK certificates.
library PckExtension {
    error MalformedPckExtension();

    // 1.2.840.113741.1.13.1, with the tag and length of a member's identifier, which is one arc longer.
    uint256 private constant MEMBER = 0x060a2a864886f84d010d01;
    uint256 private constant TCB = 0x2a864886f84d010d0102;

    /// @notice Reads the extension. Intel SGX PCK Certificate specification, section 1.3.5: each member once.
    function read(bytes calldata sgx) internal pure returns (Platform memory platform) {
        (bytes calldata list, bytes calldata value) = Der.take(sgx, Der.SEQUENCE);
        require(value.length == 0, MalformedPckExtension());
        uint256 seen;
        while (list.length > 0) {
            (value, list) = Der.take(list, Der.SEQUENCE);
            uint256 head = Der.first(value);
            uint256 member = (head >> 160) & 0xff;
            if (head >> 168 != MEMBER || member < 2 || member > 4) continue;
            require((seen >> member) & 1 == 0, MalformedPckExtension());
            seen |= 1 << member;
            if (member == 2) {
                (value, sgx) = Der.take(value[12:], Der.SEQUENCE);
                require(sgx.length == 0, MalformedPckExtension());
                readTcb(platform, value);
            } else if (member == 3) {
                platform.pceId = bytes2(octets(value, 2));
            } else {
                platform.fmspc = bytes6(octets(value, 6));
            }
        }
        require(seen == 0x1c, MalformedPckExtension());
    }

    function octets(bytes calldata value, uint256 size) private pure returns (bytes32) {
        (bytes calldata content, bytes calldata none) = Der.take(value[12:], Der.OCTETS);
        require(content.length == size && none.length == 0, MalformedPckExtension());
        return bytes32(content);
    }

    /// @dev Members 1 to 16 are the components, 17 is PCESVN, in this order; 18 repeats the components as CPUSVN.
    function readTcb(Platform memory platform, bytes calldata list) private pure {
        unchecked {
            uint256 components;
            uint256 p;
            for (uint256 index = 1; index < 17; index++) {
                uint256 svn;
                (svn, p) = readSvn(list, p, index);
                require(svn < 0x100, MalformedPckExtension());
                components = (components << 8) | svn;
            }
            platform.components = bytes16(uint128(components));
            (components, p) = readSvn(list, p, 17);
            require(p <= list.length && components < 0x10000, MalformedPckExtension());
            platform.pceSvn = uint16(components);
        }
    }

    /// @dev One word holds SEQUENCE { OID of 11 bytes, INTEGER of 1 to 3 }: 15 bytes before the INTEGER, all of them known but a length.
    function readSvn(bytes calldata list, uint256 p, uint256 index) private pure returns (uint256 svn, uint256 next) {
        unchecked {
            uint256 word;
            assembly ("memory-safe") {
                word := calldataload(add(list.offset, p))
            }
            uint256 size = (word >> 120) & 0xff;
            require(size > 0 && size < 4, MalformedPckExtension());
            uint256 head = 0x300f060b << 104 | TCB << 24 | index << 16 | 0x0200;
            require(word >> 120 == head + size + (size << 120), MalformedPckExtension());
            svn = (word >> (120 - 8 * size)) & ((1 << (8 * size)) - 1);
            // X.690 section 8.3: not negative, in its shortest form.
            require(svn >> (8 * size - 1) == 0 && (size == 1 || svn >> (8 * size - 9) != 0), MalformedPckExtension());
            next = p + 17 + size;
        }
    }
}
