// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {RunnerRegistry} from "../../contracts/RunnerRegistry.sol";
import {Bytes} from "../../contracts/attestation/Bytes.sol";

/// @dev Takes a quote that vouches for something else, so that registering one of a real machine can be measured whole: the same
///      comparison is made, against the report data it is told of instead of the statement's.
contract RecordedQuotes is RunnerRegistry {
    bytes32 private immutable first;
    bytes32 private immutable second;

    error OtherReportData(bytes32 expected, bytes32 digest);

    constructor(address owner, address escrow, bytes32 rootX, bytes32 rootY, bytes32 rootName, bytes memory reportData)
        RunnerRegistry(owner, escrow, owner, false, rootX, rootY, rootName)
    {
        (first, second) = abi.decode(reportData, (bytes32, bytes32));
    }

    function checkReportData(bytes calldata body, address signer, uint64 notAfter, bytes32 digest) internal view override {
        bytes4 tag = development ? bytes4("ASYD") : bytes4("ASY1");
        uint256 named = uint256(uint160(signer)) << 96 | uint256(uint32(tag)) << 64 | notAfter;
        require(
            named != 0 && digest != 0 && bytes32(Bytes.word(body, 520)) == first && bytes32(Bytes.word(body, 552)) == second,
            OtherReportData(first, digest)
        );
    }
}
