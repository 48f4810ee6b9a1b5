// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Asn1} from "./Evidence.sol";
import {Vendor} from "./Vendor.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {Role} from "../attestation/Certificates.sol";
import {Collateral} from "../attestation/Collateral.sol";
import {Issuers} from "../attestation/Issuers.sol";
import {Platforms} from "../attestation/Platforms.sol";
import {Quotes} from "../attestation/Quotes.sol";

/// @notice Checks a registration from the vendor's root to the one slot that settlement reads; `test/contracts/` does so with quotes of real machines.
contract RegisteringTest is Vendor {
    function setUp() public {
        open();
        postAll();
    }

    function runner() private view returns (RunnerRegistry.Runner memory it) {
        (it.provider, it.registeredAt, it.validUntil, it.workloadIndex, it.tee, it.status) =
            registry.runners(vm.addr(RUNNER));
    }

    function test_register_soundEvidence() public {
        send(registerCall(sound()));
        RunnerRegistry.Runner memory it = runner();
        assertEq(it.provider, PROVIDER);
        assertEq(it.registeredAt, NOW);
        assertEq(it.validUntil, NOT_AFTER);
        assertEq(it.workloadIndex, 1);
        assertEq(it.tee, 0);
        assertEq(it.status, 0);
    }
}
