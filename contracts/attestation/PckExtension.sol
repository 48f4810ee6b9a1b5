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
    bool denied;
}

/// @notice Reads Intel's extension of PCK certificates.
library PckExtension {
    error MalformedPckExtension();

    uint256 private constant TCB = 0x2a864886f84d010d0102;
    uint256 private constant PCE_ID = 0x2a864886f84d010d0103;
    uint256 private constant FMSPC = 0x2a864886f84d010d0104;

    /// @notice Reads the extension. Intel SGX PCK Certificate specification, section 1.3.5: each member once.
    function read(bytes calldata sgx) internal pure returns (Platform memory platform) {
        (bytes calldata list, bytes calldata value) = Der.take(sgx, Der.SEQUENCE);
        require(value.length == 0, MalformedPckExtension());
        uint256 seen;
        while (list.length > 0) {
            bytes calldata id;
            (id, list) = Der.take(list, Der.SEQUENCE);
            (id, value) = Der.take(id, Der.OID);
            uint256 known = Der.equals(id, TCB, 10) ? 1 : Der.equals(id, PCE_ID, 10) ? 2 : Der.equals(id, FMSPC, 10) ? 4 : 0;
            if (known == 0) continue;
            require(seen & known == 0, MalformedPckExtension());
            seen |= known;
            (value, id) = Der.take(value, known == 1 ? Der.SEQUENCE : Der.OCTETS);
            require(id.length == 0, MalformedPckExtension());
            if (known == 1) {
                readTcb(platform, value);
            } else if (known == 2) {
                require(value.length == 2, MalformedPckExtension());
                platform.pceId = bytes2(value);
            } else {
                require(value.length == 6, MalformedPckExtension());
                platform.fmspc = bytes6(value);
            }
        }
        require(seen == 7, MalformedPckExtension());
    }

    /// @dev Members 1 to 16 are the components, 17 is PCESVN; 18 repeats them as CPUSVN.
    function readTcb(Platform memory platform, bytes calldata list) private pure {
        uint256 components;
        uint256 seen;
        while (list.length > 0) {
            bytes calldata value;
            (value, list) = Der.take(list, Der.SEQUENCE);
            bytes calldata id;
            (id, value) = Der.take(value, Der.OID);
            require(id.length == 11 && bytes10(id) == bytes10(uint80(TCB)), MalformedPckExtension());
            uint256 index = uint8(id[10]);
            require(index >= 1 && index <= 18 && (seen >> index) & 1 == 0, MalformedPckExtension());
            seen |= 1 << index;
            if (index == 18) continue;
            uint256 svn;
            (svn, value) = Der.number(value, index == 17 ? 2 : 1);
            require(value.length == 0, MalformedPckExtension());
            if (index == 17) platform.pceSvn = uint16(svn);
            else components |= svn << (8 * (16 - index));
        }
        require(seen & 0x3fffe == 0x3fffe, MalformedPckExtension());
        platform.components = bytes16(uint128(components));
    }
}
